"""What needs a GPU to show: check.py runs the checks, bundle.py packs them for another machine.

What the checks compute is the same on a CPU, where it is tested.
"""
