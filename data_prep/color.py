"""Channel order and mean color, shared by LMDBs, nets, evaluation and export.

Every image in this project is uint8, height x width x 3, blue-green-red, as OpenCV decodes it and
as Caffe's model zoo was trained. Nothing swaps channels between a file on disk and the net.
"""

# Mean of the ImageNet training images, 0..255; the model zoo's nets subtract it.
IMAGENET_BGR_MEAN = (104, 117, 123)
