"""Benchmarks: `python -m benchmarks.run` runs them all; each module also runs by itself."""
