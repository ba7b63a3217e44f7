"""The order of the training records, and what a batch of them has for the large-margin loss."""

import hashlib

import numpy as np

from data_prep import batches, constraints

ORDERS = ("shuffled", "listed", "hierarchical")
REPORTED = 128  # images of the batches that are reported on where the order has none of its own


def ordered(records, options, hierarchy):
    """The records as they are written, and `facts` of the order for the manifest.

    options: of the manifest. "order" is "listed", the reader's order; "shuffled", by a hash of
    "seed" and name: the same seed gives the same order on every machine and version, whatever
    other records there are; or "hierarchical", by batches.Plan(**options["batches"]), in which
    records come again in each epoch. UserError where there is no such order.
    """
    if options["order"] == "shuffled":
        records = sorted(records, key=lambda record: _hash(record, options["seed"]))
    if options["order"] == "hierarchical":
        plan = batches.Plan(**options["batches"])
        found = batches.hierarchical(
            _labels(records), hierarchy.labels, hierarchy.names[0], plan, options["seed"]
        )
        records = [records[i] for i in found]
    return list(records), facts(_labels(records), options, hierarchy)


def batch_size(options):
    """Images of a batch of these options."""
    return batches.Plan(**options["batches"]).batch if options["batches"] else REPORTED


def facts(labels, options, hierarchy, batch=None):
    """{"batch": images, "shares": {workers: constraints.shares}} of records with these fine
    labels, for the numbers of workers that the order is made for.
    """
    workers = options["batches"]["workers"] if options["batches"] else 1
    batch, rows = batch or batch_size(options), hierarchy.labels[labels]
    return {
        "batch": batch,
        "shares": {
            str(number): constraints.shares(rows, batch, number)
            for number in range(1, workers + 1)
            if workers % number == 0
        },
    }


def lines(facts):
    """Facts as lines to print."""
    for workers, shares in facts["shares"].items():
        terms = [name for name in shares if name not in ("all", "tree")]
        dealt = f" of each of {workers} workers" if workers != "1" else ""
        each = ", ".join(f"{name} {100 * shares[name]:.1f} %" for name in terms)
        yield (
            f"batches of {facts['batch']}{dealt}: {', '.join(terms[:-1])} and {terms[-1]} are all "
            f"defined for {100 * shares['all']:.1f} % of the classes in a batch, the tree allows "
            f"{100 * shares['tree']:.1f} % ({each})"
        )


def _hash(record, seed):
    return hashlib.sha256(f"{seed} {record.name}".encode()).digest()


def _labels(records):
    return np.array([record.label for record in records])
