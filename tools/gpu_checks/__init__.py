"""The checks of tools/gpu_check.py. What they compute is the same on a CPU, where it is tested."""
