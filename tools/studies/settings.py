"""Options of tools/make_prototxt.py as a study writes them: names, checks, command-line words."""

import argparse
import difflib
import json

from data_prep.common.errors import UserError
from tools.nets import losses, tables
from tools.nets.options import add_net_options, add_run_options, json_option

GLM_JSON = "glm-json"
GLM_PREFIX = "glm."  # glm.k, glm.margins ...: parameters of the large-margin loss, for --glm-json
# The engine's own.
RESERVED = ("net", "variant", "out", "name", "seed")

_LABELS = tables.Labels((2,), "")  # any will do


def _with_any(*stages):
    """Function: variant -> whether it has one of these stages."""
    return lambda variant: not set(stages).isdisjoint(tables.STAGES[variant])


# {option: function(variant) -> whether the option changes its training}; others change every one.
_CHANGES = {
    **{option[2:]: _with_any(name) for name, option in losses.WEIGHT_OPTIONS.items()},
    losses.SCALE_OPTION[2:]: _with_any(
        *(name for name, loss in tables.LOSSES.items() if "normalize" in loss.parameters(_LABELS))
    ),
    "skip-input": _with_any("csm"),
    **{json_option(name)[2:]: _with_any(name) for name in tables.LOSSES},
    "attributes": _with_any(
        *(name for name, loss in tables.LOSSES.items() if tables.ATTRIBUTES in loss.reads)
    ),
    "label-smoothing": tables.has_softmax,
}


def nearest(name, known):
    """A hint for a message: the nearest known name, or all of them."""
    found = difflib.get_close_matches(str(name), known, 1)
    return f": did you mean {found[0]!r}?" if found else f" (known: {', '.join(known)})"


def flat(table, prefix=""):
    """{dotted name: value} of a TOML table in which glm.k = 1 makes a table glm."""
    found = {}
    for name, value in table.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def applies(option, variant):
    """Whether an option changes the training of a variant."""
    changes = _CHANGES.get(GLM_JSON if option.startswith(GLM_PREFIX) else option)
    return changes is None or changes(variant)


def words(options):
    """Command-line words of {option: value}; the values of glm.* are joined into --glm-json."""
    glm = {
        name.removeprefix(GLM_PREFIX): value
        for name, value in options.items()
        if name.startswith(GLM_PREFIX)
    }
    found = []
    for name, value in options.items():
        if name.startswith(GLM_PREFIX) or value is False:
            continue
        found += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    if glm:
        found += [f"--{GLM_JSON}", json.dumps(glm)]
    return found


class Parser(argparse.ArgumentParser):
    """Raises UserError instead of ending the process."""

    def error(self, message):
        raise UserError(message)


def check(options, where):
    """argparse's namespace of {option: value}; UserError, beginning with `where`, if not valid."""
    parser = Parser(add_help=False, allow_abbrev=False)
    add_net_options(parser)
    add_run_options(parser)
    known = [action.option_strings[0][2:] for action in parser._actions]
    for name in options:
        if name in RESERVED or not (name in known or name.startswith(GLM_PREFIX)):
            usable = [one for one in known if one not in RESERVED]
            raise UserError(
                f"{where}: {name!r} is not an option that a study can set{nearest(name, usable)}"
            )
    if GLM_JSON in options and any(name.startswith(GLM_PREFIX) for name in options):
        raise UserError(f"{where}: give {GLM_JSON} or {GLM_PREFIX}..., not both")
    try:
        return parser.parse_args(words(options))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
