"""Drafter families, one file each, their checkpoints, and the registry that finds the one a user means."""
