"""What Caffe refuses, as an error that a person can read."""

from contextlib import contextmanager

from data_prep.common.errors import UserError


@contextmanager
def refusals(what):
    """Within it, what Caffe or a Python layer says of its input is a UserError: `what`: reason.

    caffe.Error is a failed check of Caffe's own (docker/patches/0007); a ValueError is how the
    Python layers refuse parameters, shapes and values.
    """
    from tools.pycaffe import caffe

    try:
        yield
    except (caffe.Error, ValueError) as error:
        raise UserError(f"{what}: {error}") from None
