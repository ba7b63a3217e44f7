"""Python layers for Caffe, and their maths in modules that do not import Caffe."""
