"""Figures of an evaluation: ranks, distances in the tree, calibration, retrieval, intervals.

Its modules take arrays and label trees, and know nothing of Caffe, files or commands.
"""
