"""Values of command-line options about nets."""

import json

from data_prep.cli import UserError
from python_layers import glm_loss


def positive(kind, name):
    """An argparse type: a number above 0. kind: int or float. name: in argparse's message."""
    def convert(text):
        value = kind(text)
        if not 0 < value < 2**31:  # Caffe's numbers of images and iterations are of 32 bits
            raise ValueError
        return value
    convert.__name__ = name
    return convert


def glm_parameters(text, levels):
    """Parameters of the large-margin loss that a user gave, {} for none; UserError where the layer
    itself would refuse them for so many levels."""
    try:
        glm_loss.settings(text, levels, "--glm-json")
    except ValueError as error:
        raise UserError(str(error)) from None
    return json.loads(text) if text.strip() else {}
