"""The order of the training records, and the terms of the large-margin loss that it defines."""

import hashlib

import numpy as np

from data_prep import batches, constraints

ORDERS = ("shuffled", "listed", "hierarchical")
REPORTED = 128  # batch size of the report for orders without a batch size of their own


def ordered(records, options, hierarchy):
    """The records in the order of writing, and the order's `facts` for the manifest.

    options: BuildOptions. Its order is "listed", the reader's; "shuffled", by a hash of seed and
    name, so that a seed gives the same order on every machine and version, independent of other
    records; or "hierarchical", by its batches, which repeats the records in each epoch. Raises
    UserError if the hierarchical order is not possible.
    """
    if options.order == "shuffled":
        records = sorted(records, key=lambda record: _hash(record, options.seed))
    if options.order == "hierarchical":
        found = batches.hierarchical(
            _labels(records), hierarchy.labels, hierarchy.names[0], options.batches, options.seed
        )
        records = [records[i] for i in found]
    return list(records), facts(_labels(records), options, hierarchy)


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
