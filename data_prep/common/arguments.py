"""Argument types for argparse."""

import argparse
import re

NAMES = {int: "whole number", float: "number"}  # what argparse's own message calls them


def within(kind, low, high, what=""):
    """Argument type: a number (kind: int or float) from low to high.

    what: words that precede the range in the error message.
    """

    def convert(text):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{what}{low} to {high} expected")
        return value

    convert.__name__ = NAMES[kind]
    return convert


def level_names(text):
    """Argument type: comma-separated names of levels, as a tuple."""
    names = tuple(text.split(","))
    if len(set(names)) < len(names) or not all(re.fullmatch(r"\w+", name) for name in names):
        raise argparse.ArgumentTypeError(
            "different names of letters, digits and _ expected, with commas between them"
        )
    return names


def pairs(text):
    """Argument type: NAME=VALUE,... as a dict."""
    found = [part.partition("=") for part in text.split(",")]
    names = [name.strip() for name, _, _ in found]
    if not all(mark and value.strip() and name for name, (_, mark, value) in zip(names, found)):
        raise argparse.ArgumentTypeError("NAME=VALUE expected, with commas between several")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError("each name may occur once only")
    return {name: value.strip() for name, (_, _, value) in zip(names, found)}


def gpu_numbers(text):
    """Argument type: different numbers of GPUs with commas between them, as a list."""
    numbers = [int(part) for part in text.split(",")]
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise ValueError
    return numbers


gpu_numbers.__name__ = "list of GPUs, such as 0,1,"  # argparse's message: "invalid ... value"
