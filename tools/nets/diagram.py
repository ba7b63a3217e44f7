"""The content of a figure of the head: one variant of a net, with its backbone as one block."""

from dataclasses import dataclass

from tools.pycaffe import TEST, TRAIN

from . import head, rules, tables


@dataclass(frozen=True)
class Classifier:
    """A fully connected layer with a loss on it; reads the feature or other classifiers.

    level: of the label tree, 1 = finest.
    """

    name: str
    level: int
    classes: int
    reads: tuple


@dataclass(frozen=True)
class Diagram:
    """The head of a net.

    name         the net's
    first        layer of the backbone
    feature      blob that the backbone ends with
    dropout      ratio between feature and classifiers, 0 if there is none
    classifiers  tuple of Classifier, fine to coarse
    metric       (name, weight) of the loss on the feature, None if there is none
    scored       the same of the loss that takes the place of the classifiers' softmax losses
    parts        whether each classifier reads its part of the feature
    """

    name: str
    first: str
    feature: str
    dropout: float
    classifiers: tuple
    metric: tuple | None
    scored: tuple | None
    parts: bool


def diagram(net, stages):
    """Diagram of a train_val NetParameter in training. Raises ValueError if it has no such head."""
    selected = rules.select(net, TRAIN, stages)
    layers = {layer.name: layer for layer in selected.layer}
    made_by = {
        top: layer for layer in layers.values() for top in layer.top if top not in layer.bottom
    }
    # In tests every classifier has a softmax loss, whatever loss trains it.
    classified = head.classified(rules.select(net, TEST, stages))
    if head.scores(1) not in classified.values():
        raise ValueError(
            f"has no classifier {head.scores(1)} with a SoftmaxWithLoss: it lacks the "
            "head that tools/make_prototxt.py writes"
        )

    def sources(blob, joined):
        """The sources of a classifier's bottom; joined: names of Concats that may combine them."""
        layer = made_by.get(blob)
        if layer is None or not (
            layer.type in ("Dropout", "Flatten", "Softmax") or layer.name in (*joined, head.PARTS)
        ):
            return (blob,)
        found = (source for bottom in layer.bottom for source in sources(bottom, joined))
        return tuple(dict.fromkeys(found))

    classifiers = []
    for position, (level, name) in enumerate(classified.items(), 1):
        layer = layers[name]
        classifiers.append(
            Classifier(
                name,
                level,
                layer.inner_product_param.num_output,
                sources(layer.bottom[0], (head.inputs(position), head.parts(position))),
            )
        )
    parts = layers.get(head.PARTS)
    dropout = made_by.get(parts.bottom[0] if parts else layers[head.scores(1)].bottom[0])
    used = [tables.LOSSES[name] for name in tables.LOSSES if name in layers]
    weights = {bool(row.scored): (row.name, layers[row.name].loss_weight[0]) for row in used[::-1]}
    return Diagram(
        name=net.name,
        first=next(layer.name for layer in layers.values() if "data" in layer.bottom),
        feature=classifiers[0].reads[0],
        dropout=dropout.dropout_param.dropout_ratio if dropout and dropout.type == "Dropout" else 0,
        classifiers=tuple(classifiers),
        metric=weights.get(False),
        scored=weights.get(True),
        parts=parts is not None,
    )
