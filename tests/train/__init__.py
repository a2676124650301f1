"""Tests of pspec_rt.train."""
