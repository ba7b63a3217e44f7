"""Nets for `caffe train`: backbones, the paper's head, solvers, deploy files, from small tables."""
