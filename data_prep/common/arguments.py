"""Types of command-line options, for argparse."""

import argparse

NAMES = {int: "whole number", float: "number"}  # what argparse's own message calls them


def within(kind, low, high, what=""):
    """A type: a number (kind: int or float) from low to high. what: words before these in the
    message that refuses others.
    """

    def convert(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{what}{low} to {high} expected")
        return value

    convert.__name__ = NAMES[kind]
    return convert
