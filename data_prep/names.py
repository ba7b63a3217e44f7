"""Rules for names of classes and levels, used by every reader."""

import re
import unicodedata

BLANKS = re.compile(
    r"[^\S\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+"
)  # white space, no control character

# Columns besides the levels' in the files of a data set and of its evaluation, and the suffixes
# that these add to a level's name.
COLUMNS = ("key", "image")
ID, PREDICTED, PROBABILITY, FROM_FINE = SUFFIXES = (
    "_id",
    "_predicted",
    "_probability",
    "_from_fine",
)


def class_name(text):
    """The normalized name of a class: Unicode NFC, stripped, and with single blanks inside."""
    return BLANKS.sub(" ", unicodedata.normalize("NFC", text)).strip(" ")


def look_alikes(names):
    """Groups of names that differ only in case or in compatibility characters."""
    alike = {}
    for name in names:
        folded = unicodedata.normalize("NFKC", name).casefold()
        alike.setdefault(unicodedata.normalize("NFKC", folded), []).append(name)
    return [group for group in alike.values() if len(set(group)) > 1]


def level_problem(levels):
    """Why the names of levels can't be used, or None."""
    for level in levels:
        if not re.fullmatch(r"\w+", level) or not re.search(r"[^\W\d]", level):
            return f"the level name {level!r} may have only letters, digits and _, with a letter"
        if level in COLUMNS or level.endswith(SUFFIXES):
            return (
                f"the level name {level!r} is reserved: key, image and names that end in "
                f"{', '.join(SUFFIXES)} are columns of result tables; choose another"
            )
    if len(set(levels)) < len(levels):
        return "two levels have the same name"
    return None
