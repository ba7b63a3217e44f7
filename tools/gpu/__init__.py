"""Checks that need a GPU: check.py runs them, bundle.py packs them for another machine.

The code of the checks is tested on the CPU.
"""
