"""Writes a Caffe net and its weights as an ONNX model of standard operators.

build.py puts the model together, table.py has one function per layer type, and the other modules
hold these functions by kind. None of them runs Caffe: the caller passes the weights and the shapes
that Caffe gives its blobs.
"""
