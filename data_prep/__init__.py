"""Builds LMDBs for Caffe, with their label trees, from archives and folders of images."""
