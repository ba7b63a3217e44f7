"""Layers that Caffe imports while it trains, and their maths apart from Caffe."""
