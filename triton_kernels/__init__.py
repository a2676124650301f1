"""Triton kernels, one file per op, installed as `pspec_rt.triton_kernels`.

`triton_kernels/<op>.py` holds the kernel, its launcher `<op>(...)` with the signature of `pspec_rt.ops.<op>`, and
`SPECIALIZATIONS`, what the tests compile ahead of time. A launcher takes plain tensors and works by itself:

    from pspec_rt.triton_kernels.silu_mul import silu_mul

Rules all kernels keep:
- The launcher reads shapes, strides and dtypes, never data, and allocates nothing but `pspec_rt.scratch`: it can be
  captured in a CUDA graph. Lengths and indices that vary come by pointer.
- Under Triton's interpreter (TRITON_INTERPRET=1) bf16 arithmetic and rounding are wrong. Kernels load with
  `widen`, compute in fp32 and store through `narrow`, which on a GPU are plain conversions.
- With PDL a kernel calls gdc_wait before it touches memory, even when it reads nothing of the kernel before it: the
  kernel after it relies on that wait for what happened earlier.
"""
