"""Timings against naive references, which are the tests' oracles too."""
