"""Real data sets and weights for tests, in the folder that HIERARCHICAL_CAFFE_DATA names.

They are optional and not part of the repository: CUB_200_2011/, stanford_cars/, fgvc_aircraft/,
hierarchies/ and weights/, each as published, or a part. Without it their tests are skipped.
"""

import os
from pathlib import Path

VARIABLE = "HIERARCHICAL_CAFFE_DATA"
FOLDER = Path(os.environ.get(VARIABLE) or "/nonexistent").resolve()


def missing(path):
    """Why a test of FOLDER/path is skipped."""
    return f"{VARIABLE} names no folder with {path}"
