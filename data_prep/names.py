"""Names of classes and levels, as every reader takes them."""

import re
import unicodedata

BLANKS = re.compile(
    r"[^\S\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+"
)  # white space, no control character

# Names of columns that the files of a data set and of its evaluation have beside the levels', and
# what they add to a level's name.
COLUMNS = ("key", "image")
ID, PREDICTED, PROBABILITY, FROM_FINE = SUFFIXES = (
    "_id",
    "_predicted",
    "_probability",
    "_from_fine",
)


def class_name(text):
    """The name of a class without what can't be seen: in Unicode's form NFC, without blanks at its
    ends, and with one blank where there are several.
    """
    return BLANKS.sub(" ", unicodedata.normalize("NFC", text)).strip(" ")


def look_alikes(names):
    """Lists of different names that differ in case or in compatible characters only."""
    alike = {}
    for name in names:
        folded = unicodedata.normalize("NFKC", name).casefold()
        alike.setdefault(unicodedata.normalize("NFKC", folded), []).append(name)
    return [group for group in alike.values() if len(set(group)) > 1]


def level_problem(levels):
    """Why the names of levels can't be used, or None."""
    for level in levels:
        if not re.fullmatch(r"\w+", level) or not re.search(r"[^\W\d]", level):
            return f"the level name {level!r} is not of letters, digits and _, with a letter"
        if level in COLUMNS or level.endswith(SUFFIXES):
            return (
                f"the level name {level!r} is reserved: key, image and names that end in "
                f"{', '.join(SUFFIXES)} are columns of result tables; choose another"
            )
    if len(set(levels)) < len(levels):
        return "two levels have the same name"
    return None
