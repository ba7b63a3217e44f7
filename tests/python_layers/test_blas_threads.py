"""Layers compute in one thread of NumPy's BLAS, and leave its and Caffe's as they were."""

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from python_layers.blobs import HostBlobs


def threads():
    """{is it NumPy's own: its number of threads} of the BLAS libraries in this process."""
    np.ones((2, 2)) @ np.ones((2, 2))
    home = Path(np.__file__).parent.parent
    return {
        Path(library.filepath).is_relative_to(home): library.num_threads
        for library in ThreadpoolController().select(user_api="blas").lib_controllers
    }


def test_inside_one_thread_and_outside_as_before():
    blas = ThreadpoolController().select(user_api="blas")
    with blas.limit(limits=2):
        with HostBlobs.queue:
            inside = threads()
        after = threads()
    assert inside == {True: 1, False: 2} and after == {True: 2, False: 2}


def test_restored_after_an_error():
    with ThreadpoolController().select(user_api="blas").limit(limits=2):
        with pytest.raises(ValueError, match="diverged"):
            with HostBlobs.queue:
                raise ValueError("diverged")
        assert set(threads().values()) == {2}
