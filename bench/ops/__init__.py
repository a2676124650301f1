"""One benchmark per op: `python -m bench.ops.bench_linear [--json OUT] [--quick] [--model NAME]`."""
