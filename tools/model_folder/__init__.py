"""The folder that tools/export.py writes: a trained net that needs neither this code nor Caffe."""
