"""Property tests of csrc/common, the algorithms shared by CPU and CUDA kernels, through pspec_rt._C."""

from __future__ import annotations

import pytest

pytest.importorskip("pspec_rt._C", reason="pspec_rt._C is not built (pip install -e .)")
