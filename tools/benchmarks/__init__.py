"""The benchmarks of tools/bench.py, a module each."""
