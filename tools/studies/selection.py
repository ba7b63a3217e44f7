"""Chooses the options of a row by its trainings on the validation split."""

import statistics
from dataclasses import dataclass

from tools.studies import records


@dataclass(frozen=True)
class Candidate:
    """Options that were tried. accuracy: mean fine top-1 on val over seeds; None: diverged."""

    options: tuple
    accuracy: float | None
    found: tuple  # records.Records


def choose(candidates):
    """(the Candidate chosen or None, all Candidates) of {options: Records, one per seed}.

    The best mean accuracy on the validation split is chosen, the first of equal ones. Options with
    which any seed diverged are not; None if that holds for all.
    """
    tried = [
        Candidate(options, _mean(found), tuple(found)) for options, found in candidates.items()
    ]
    usable = [one for one in tried if one.accuracy is not None]
    return max(usable, key=lambda one: one.accuracy, default=None), tried


def _mean(found):
    if any(one.status == records.DIVERGED for one in found):
        return None
    return statistics.fmean(one.scores.levels[0].own.top1 for one in found)
