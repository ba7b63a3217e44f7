"""The order of the training records, and the terms of the large-margin loss that it defines."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np

from data_prep import batches, constraints

ORDERS = ("shuffled", "listed", "hierarchical")
REPORTED = 128  # batch size of the report for orders without a batch size of their own


def ordered(records, options, hierarchy):
    """The records in the order of writing, and the order's `facts` for the manifest.

    options: BuildOptions. Its order is "listed", the reader's; "shuffled", by a hash of seed and
    name, so that a seed gives the same order on every machine and version, independent of other
    records; or "hierarchical", by its batches, which repeats the records in each epoch. With scales
    there is a pass for each, in which an image has the next of its scales; images begin with
    different ones. Raises UserError if the hierarchical order is not possible.
    """
    if options.scales:
        passes = len(options.scales)
        if options.batches:
            more = replace(options.batches, epochs=passes * options.batches.epochs)
            options = replace(options, batches=more)
        turns = in_passes(records, options, hierarchy, passes)
        records = [replace(record, size=_scale(record, turn, options)) for record, turn in turns]
    else:
        records = _once(records, options, hierarchy)
    return records, facts(_labels(records), options, hierarchy)


def in_passes(records, options, hierarchy, passes):
    """[(record, turn)] in the order of writing; turn: how often the record came before.

    passes: number of passes over the records; of the hierarchical order its epochs count instead.
    """
    if options.order == "hierarchical":
        found = _once(records, options, hierarchy)
    else:
        found = []
        for number in range(passes):
            # A pass has an order of its own: the same neighbors in each would be the same batches.
            seed = f"{options.seed} {number}" if number else options.seed
            found += _once(records, replace(options, seed=seed), hierarchy)
    seen, turns = Counter(), []
    for record in found:
        turns.append((record, seen[record.name]))
        seen[record.name] += 1
    return turns


def _once(records, options, hierarchy):
    """The records in the order of writing, in one pass or the hierarchical order's epochs."""
    if options.order == "shuffled":
        return sorted(records, key=lambda record: _hash(record, options.seed))
    if options.order == "hierarchical":
        found = batches.hierarchical(
            _labels(records), hierarchy.labels, hierarchy.names[0], options.batches, options.seed
        )
        return [records[i] for i in found]
    return list(records)


def _scale(record, turn, options):
    """The side at which a record's image is stored in its turn."""
    first = hashlib.sha256(f"scale {options.seed} {record.name}".encode()).digest()[0]
    return options.scales[(first + turn) % len(options.scales)]


def batch_size(options):
    """Batch size for these options."""
    return options.batches.batch if options.batches else REPORTED


def facts(labels, options, hierarchy, batch=None):
    """{"batch": images, "shares": constraints.shares} of records with these fine labels."""
    batch = batch or batch_size(options)
    return {"batch": batch, "shares": constraints.shares(hierarchy.labels[labels], batch)}


def line(facts):
    """Facts as a line to print."""
    shares = facts["shares"]
    terms = [name for name in shares if name not in ("all", "tree")]
    each = ", ".join(f"{name} {100 * shares[name]:.1f} %" for name in terms)
    return (
        f"batches of {facts['batch']}: {', '.join(terms[:-1])} and {terms[-1]} are all defined for "
        f"{100 * shares['all']:.1f} % of the classes in a batch, the tree allows "
        f"{100 * shares['tree']:.1f} % ({each})"
    )


def _hash(record, seed):
    return hashlib.sha256(f"{seed} {record.name}".encode()).digest()


def _labels(records):
    return np.array([record.label for record in records])
