"""What the tests of emulated kernels share."""

from __future__ import annotations

from pathlib import Path

import pytest

from .matrix import Library


@pytest.fixture(scope="session")
def library() -> Library:
    """The matrix kernels, built at the first test that asks for them."""
    return Library()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of compiled kernels."""
    return tmp_path_factory.mktemp("cubins")
