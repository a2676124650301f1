"""One test file per op, each run on every backend of the op."""
