"""The definition of every op in plain PyTorch: specification, oracle and slow backend."""
