"""Benchmarks: they report speed beside the floor of the machine and never assert it."""
