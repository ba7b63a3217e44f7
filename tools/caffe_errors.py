"""Turns Caffe's errors into readable ones."""

from contextlib import contextmanager

from data_prep.common.errors import UserError


@contextmanager
def refusals(what):
    """Context manager that turns errors of Caffe or a Python layer into UserError("what: reason").

    caffe.Error is a failed check in Caffe itself (docker/patches/0007); Python layers raise
    ValueError for invalid parameters, shapes and values.
    """
    from tools.pycaffe import caffe

    try:
        yield
    except (caffe.Error, ValueError) as error:
        raise UserError(f"{what}: {error}") from None
