"""From raw archives to the LMDBs that Caffe trains on: readers, hierarchies, images, writing, verifying."""
