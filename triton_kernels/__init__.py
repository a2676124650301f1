"""Triton kernels, one file per op, installed as `pspec_rt.triton_kernels`."""
