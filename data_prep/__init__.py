"""From raw archives to the LMDBs that Caffe trains on, with their label trees."""
