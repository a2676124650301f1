"""Tests of pspec_rt; a package, so that test files can share helpers and may have equal names."""
