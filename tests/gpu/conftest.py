"""Every test here runs on the GPU, on numbers that differ from run to run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pspec_rt import ops


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a GPU they are skipped before any fixture asks for one."""
    if torch.cuda.is_available():
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(autouse=True)
def on_gpu(seed: None) -> Iterator[None]:
    """Make the GPU the default device, and draw a new seed, which a failure shows with the captured output."""
    print(f"torch.manual_seed({torch.seed()})")
    ops.choose_backends("cuda")
    with torch.device("cuda"):
        yield
    ops.choose_backends("cpu")
