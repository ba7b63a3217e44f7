"""The paper's head (Figs. 3 and 4), the same for every network and any number of levels.

Blobs, for a batch of B and h levels of C(1) .. C(h) classes, fine to coarse:
    label                              B x h x 1 x 1, class ids from 0, from the label LMDB
    label_1 .. label_h                 B x 1 x 1 x 1, one level each
    fc8_fine, fc9_coarse, fc10_coarse  B x C(j), class scores before softmax
    loss_*, accuracy_*, <name>_loss    one number each
Stages: csm (coarse classifiers), skip (they also read the feature), and one for each loss of
tables.LOSSES, with its name.
"""

import json

from tools.pycaffe import TEST, TRAIN

from .backbones import NEW, constant
from .tables import ALL_LABELS, ALL_SCORES, FEATURE, FINE_LABEL, FINE_SCORES

CSM, SKIP = "csm", "skip"
SCORES, PROBABILITIES = "scores", "probabilities"  # what coarse classifiers read of finer ones


def scores(level):
    """Name of a level's classifier (1 = fine): the paper's fc8', fc9, fc10."""
    return f"fc{7 + level}_{'fine' if level == 1 else 'coarse'}"


def inputs(level):
    """Name of what a coarse classifier reads with stage skip: the feature and all finer outputs."""
    return f"fc{7 + level}_input"


def probabilities(level):
    """Name of a level's probabilities where coarse classifiers read them."""
    return f"softmax_{tag(level)}"


def tag(level):
    """Name of a level in losses, accuracies and probabilities: fine, fc9_coarse, fc10_coarse."""
    return "fine" if level == 1 else scores(level)


def label(number):
    """Name of the label blob of a level of the tree, 1 = finest."""
    return f"label_{number}"


def classified(net):
    """{number of a level of the tree, 1 = finest: its classifier} of a net of one state."""
    names = {scores(level) for level in range(1, len(net.layer))}
    return {
        int(layer.bottom[1].removeprefix(label(""))): layer.bottom[0]
        for layer in net.layer
        if layer.type == "SoftmaxWithLoss" and layer.bottom[0] in names
    }


def add_slice(net, levels, used=()):
    """label -> label_1 .. label_h. used: numbers of those that the net reads; (): all of them."""
    tops = [label(level) for level in range(1, levels + 1)]
    net.layer.add(name="labels", type="Slice", bottom=["label"], slice_param=dict(axis=1), top=tops)
    unused = [] if not used else sorted(set(tops) - {label(level) for level in used})
    if unused:
        net.layer.add(name="other_labels", type="Silence", bottom=unused)


def _add_classifier(net, level, bottom, classes, filler, param, include=()):
    net.layer.add(
        name=scores(level),
        type="InnerProduct",
        bottom=[bottom],
        top=[scores(level)],
        param=param,
        include=include,
        inner_product_param=dict(num_output=classes, weight_filler=filler, bias_filler=constant(0)),
    )


def _add_softmax_loss(net, level, target, rule, instead):
    """A level's softmax loss and accuracy. rule: of the classifier. instead: stages of losses of
    its scores, beside which it has no weight and only shows its value."""
    bottoms = [scores(level), target]
    loss, accuracy = f"loss_{tag(level)}", f"accuracy_{tag(level)}"
    for weight, rules in (
        (1, [{**rule, **(dict(not_stage=instead) if instead else {})}]),
        (0, [{**rule, "stage": [*rule.get("stage", ()), stage]} for stage in instead]),
    ):
        if rules:
            net.layer.add(
                name=loss,
                type="SoftmaxWithLoss",
                bottom=bottoms,
                top=[loss],
                loss_weight=[weight],
                include=[chosen for chosen in rules if chosen],
            )
    net.layer.add(
        name=accuracy,
        type="Accuracy",
        bottom=bottoms,
        top=[accuracy],
        include=[dict(phase=TEST, **rule)],
    )


def _add_python_loss(net, loss, bottoms, diagnostics):
    """The Python layer of a losses.NetLoss, in training, at the stage of its name."""
    row = loss.row
    tops, weights = [f"{row.name}_loss"], [loss.weight]
    if diagnostics and FEATURE in row.reads:
        tops, weights = tops + [f"{row.name}_diagnostics"], weights + [0]
    net.layer.add(
        name=row.name,
        type="Python",
        top=tops,
        loss_weight=weights,
        bottom=bottoms,
        param=row.param,
        include=[dict(phase=TRAIN, stage=[row.name])],
        python_param=dict(
            module=f"python_layers.{row.name}_loss",
            layer=row.layer,
            param_str=json.dumps(loss.parameters),
        ),
    )


def add_head(
    net,
    feature,
    dropped,
    sizes,
    filler,
    losses,
    flatten,
    *,
    labels=None,
    fine_param=NEW,
    diagnostics=False,
    skip_input=SCORES,
):
    """Append the classifiers, losses and accuracies of all variants to a NetParameter.

    feature, dropped  blobs: the feature after ReLU, and the same after dropout; one name for both
                      where there is no dropout
    sizes             classes per level, fine to coarse
    filler            of the classifiers' weights
    losses            {name: losses.NetLoss}
    flatten           is the feature a C x 1 x 1 map, which Concat can't join with scores?
    labels            number of each level's label blob (default: 1, 2, ...)
    fine_param        ParamSpecs of the fine classifier; coarse ones have NEW
    diagnostics       give the metric losses their second top, which Caffe prints
    skip_input        what coarse classifiers read of the finer ones, SCORES or PROBABILITIES
    """
    levels = range(1, len(sizes) + 1)
    targets = [label(number) for number in labels or levels]
    rows = [loss.row for loss in losses.values()]
    all_replaced = [row.name for row in rows if ALL_SCORES in row.reads]
    fine_replaced = [row.name for row in rows if row.scored]
    alone, skipping = dict(stage=[CSM], not_stage=[SKIP]), dict(stage=[CSM, SKIP])

    _add_classifier(net, 1, dropped, sizes[0], filler, fine_param)
    _add_softmax_loss(net, 1, targets[0], {}, fine_replaced)
    joined = dropped
    if flatten and len(sizes) > 1:
        joined = "feature_vector"
        net.layer.add(
            name=joined, type="Flatten", bottom=[dropped], top=[joined], include=[skipping]
        )
    finer_output = scores if skip_input == SCORES else probabilities
    for level in levels[1:]:
        if skip_input == PROBABILITIES:
            net.layer.add(
                name=probabilities(level - 1),
                type="Softmax",
                bottom=[scores(level - 1)],
                top=[probabilities(level - 1)],
                include=[dict(stage=[CSM])],
            )
        net.layer.add(
            name=inputs(level),
            type="Concat",
            top=[inputs(level)],
            include=[skipping],
            bottom=[joined] + [finer_output(finer) for finer in range(1, level)],
        )
        _add_classifier(net, level, finer_output(level - 1), sizes[level - 1], filler, NEW, [alone])
        _add_classifier(net, level, inputs(level), sizes[level - 1], filler, NEW, [skipping])
        _add_softmax_loss(net, level, targets[level - 1], dict(stage=[CSM]), all_replaced)

    blobs = {
        FEATURE: [feature],
        FINE_SCORES: [scores(1)],
        ALL_SCORES: [scores(level) for level in levels],
        FINE_LABEL: targets[:1],
        ALL_LABELS: targets,
    }
    for loss in losses.values():
        bottoms = [blob for kind in loss.row.reads for blob in blobs[kind]]
        _add_python_loss(net, loss, bottoms, diagnostics)
    if len(sizes) > 1:
        reading = [CSM, *(row.name for row in rows if ALL_LABELS in row.reads)]
        net.layer.add(
            name="unused_labels",
            type="Silence",
            bottom=targets[1:],
            include=[dict(phase=TRAIN, not_stage=reading), dict(phase=TEST, not_stage=[CSM])],
        )
