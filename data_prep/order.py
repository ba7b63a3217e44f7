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
    records come again in each epoch. UserError where that is not possible.
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
