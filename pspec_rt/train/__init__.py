"""Training drafters: the target writes answers, a drafter learns to guess them."""
