"""Nets for `caffe train`: backbones, the paper's head, solvers and deploy files, from small tables."""
