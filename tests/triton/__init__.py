"""Tests of the Triton kernels beyond those of tests/ops: compilation, memory, whole rounds."""
