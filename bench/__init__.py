"""Benchmarks of pspec_rt: ops one by one (bench.ops)."""
