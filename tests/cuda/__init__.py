"""The CUDA kernels without a GPU: run by the emulation, compiled by nvcc where that is there."""
