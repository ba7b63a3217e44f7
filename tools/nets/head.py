"""The paper's head (Figs. 3 and 4), the same for every network and any number of levels.

Blobs, for a batch of B and h levels of C(1) .. C(h) classes, fine to coarse:
    label                              B x h x 1 x 1, class ids from 0, from the label LMDB
    label_1 .. label_h                 B x 1 x 1 x 1, one level each
    fc8_fine, fc9_coarse, fc10_coarse  B x C(j), class scores before softmax
    loss_*, accuracy_*, <name>_loss    one number each
Stages: csm (coarse classifiers, on the finer scores), skip (they also read the feature), flat (they
read the feature alone), fgon (each classifier reads its part of the feature), and one for each loss
of tables.LOSSES, with its name.

In tests and deploy nets a softmax of fc8_fine, fc9_coarse ... gives the probabilities at every
stage: where they are not those of the classifier alone (tables.Loss.marginals) a layer replaces the
scores, in place, by the logarithms of the model's probabilities.
"""

import json

from tools.pycaffe import TEST, TRAIN

from .backbones import NEW, constant
from .tables import ALL_LABELS, ALL_SCORES, ATTRIBUTES, FEATURE, FINE_LABEL, FINE_SCORES

PARTS = "parts"  # the layer that divides the feature, with stage fgon
CSM, SKIP, FLAT, FGON = "csm", "skip", "flat", "fgon"
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


def attributes(number):
    """Name of the classifier of a table of attributes, 1 = first."""
    return f"attributes_{number}"


def part(level):
    """Name of a level's part of the feature with stage fgon."""
    return f"part_{tag(level)}"


def parts(level):
    """Name of what a coarse classifier reads with stage fgon: its part and all finer ones."""
    return f"parts_{tag(level)}"


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


def _add_classifier(net, name, bottom, classes, filler, param, include=()):
    net.layer.add(
        name=name,
        type="InnerProduct",
        bottom=[bottom],
        top=[name],
        param=param,
        include=include,
        inner_product_param=dict(num_output=classes, weight_filler=filler, bias_filler=constant(0)),
    )


def _add_softmax_loss(net, level, target, rule, instead):
    """A level's softmax loss and accuracy. rule: of the classifier. instead: tables.Losses of its
    scores, beside which it has no weight and only shows its value; that of marginals in tests only,
    where they are computed."""
    bottoms = [scores(level), target]
    loss, accuracy = f"loss_{tag(level)}", f"accuracy_{tag(level)}"
    stages = [row.name for row in instead]
    shown = [
        {
            **(dict(phase=TEST) if row.marginals else {}),
            **rule,
            "stage": [*rule.get("stage", ()), row.name],
        }
        for row in instead
    ]
    for weight, rules in (
        (1, [{**rule, **(dict(not_stage=stages) if stages else {})}]),
        (0, shown),
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


def _add_python(net, loss, layer, rule, hierarchies, **fields):
    """A Python layer of a losses.NetLoss at the stage of its name, once for each path of its tree.

    layer: class of the module. rule: further conditions. hierarchies: as of add_head.
    """
    versions = [(dict(stage=[]), loss.parameters)]
    if hierarchies and "hierarchy" in loss.parameters:
        versions = [(where, {**loss.parameters, "hierarchy": path}) for where, path in hierarchies]
    for where, parameters in versions:
        net.layer.add(
            type="Python",
            include=[{**rule, **where, "stage": [loss.row.name, *where.get("stage", ())]}],
            python_param=dict(
                module=f"python_layers.{loss.row.name}_loss",
                layer=layer,
                param_str=json.dumps(parameters),
            ),
            **fields,
        )


def _add_python_loss(net, loss, bottoms, diagnostics, hierarchies):
    """The loss of a losses.NetLoss, in training."""
    row = loss.row
    tops, weights = [f"{row.name}_loss"], [loss.weight]
    if diagnostics and FEATURE in row.reads:
        tops, weights = tops + [f"{row.name}_diagnostics"], weights + [0]
    _add_python(
        net,
        loss,
        row.layer,
        dict(phase=TRAIN),
        hierarchies,
        name=row.name,
        top=tops,
        loss_weight=weights,
        bottom=bottoms,
        param=row.param,
    )


def _add_marginals(net, loss, levels, also, hierarchies):
    """The layer that turns the scores of a losses.NetLoss into logarithms of probabilities.

    also: further scores that it reads.
    """
    blobs = [scores(level) for level in levels]
    _add_python(
        net,
        loss,
        loss.row.marginals,
        dict(phase=TEST),
        hierarchies,
        name=f"{loss.row.name}_marginals",
        bottom=[*blobs, *also],
        top=blobs,
    )


def _add_parts(net, dropped, width, levels):
    """The feature's parts, one of each level, of equal size but for rounding, and what the coarse
    classifiers read of them: their own, and the finer ones, to which they send no gradient."""
    ends = [width * level // len(levels) for level in levels]
    net.layer.add(
        name=PARTS,
        type="Slice",
        bottom=[dropped],
        top=[part(level) for level in levels],
        include=[dict(stage=[CSM, FGON])],
        slice_param=dict(axis=1, slice_point=ends[:-1]),
    )
    for level in levels[1:]:
        net.layer.add(
            name=parts(level),
            type="Concat",
            bottom=[part(number) for number in range(level, 0, -1)],
            top=[parts(level)],
            propagate_down=[number == level for number in range(level, 0, -1)],
            include=[dict(stage=[CSM, FGON])],
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
    width=None,
    hierarchies=(),
    tables_of=(),
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
    width             values of the feature; None: without the stage fgon
    hierarchies       (fields of a NetStateRule, path of hierarchy.tsv) of each setting of the data
                      set (default: as in `losses`, in all)
    tables_of         number of attributes of each table that the losses are given
    """
    levels = range(1, len(sizes) + 1)
    targets = [label(number) for number in labels or levels]
    rows = [loss.row for loss in losses.values()]
    divided = width is not None and len(sizes) > 1  # has the stage fgon
    alone = dict(stage=[CSM], not_stage=[SKIP, FLAT, *([FGON] if divided else [])])
    skipping, flat, of_parts = (dict(stage=[CSM, stage]) for stage in (SKIP, FLAT, FGON))

    if divided:
        _add_parts(net, dropped, width, levels)
        _add_classifier(net, scores(1), part(1), sizes[0], filler, fine_param, [of_parts])
    whole = [dict(not_stage=[FGON])] if divided else ()
    _add_classifier(net, scores(1), dropped, sizes[0], filler, fine_param, whole)
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
                include=[dict(stage=[CSM], not_stage=[FLAT, *([FGON] if divided else [])])],
            )
        net.layer.add(
            name=inputs(level),
            type="Concat",
            top=[inputs(level)],
            include=[skipping],
            bottom=[joined] + [finer_output(finer) for finer in range(1, level)],
        )
        for bottom, rule in (
            (finer_output(level - 1), alone),
            (inputs(level), skipping),
            (dropped, flat),
            *([(parts(level), of_parts)] if divided else []),
        ):
            _add_classifier(net, scores(level), bottom, sizes[level - 1], filler, NEW, [rule])
    of_tables = [attributes(number) for number in range(1, len(tables_of) + 1)]
    reading = [dict(stage=[row.name]) for row in rows if ATTRIBUTES in row.reads]
    for name, count in zip(of_tables, tables_of):
        _add_classifier(net, name, dropped, count, filler, NEW, reading)

    for loss in losses.values():
        if loss.row.marginals:
            also = of_tables if ATTRIBUTES in loss.row.reads else []
            _add_marginals(net, loss, levels, also, hierarchies)
    for level in levels:
        rule = dict(stage=[CSM]) if level > 1 else {}
        instead = [row for row in rows if row.scored and (level == 1 or ALL_SCORES in row.reads)]
        _add_softmax_loss(net, level, targets[level - 1], rule, instead)

    blobs = {
        FEATURE: [feature],
        FINE_SCORES: [scores(1)],
        ALL_SCORES: [scores(level) for level in levels],
        ATTRIBUTES: of_tables,
        FINE_LABEL: targets[:1],
        ALL_LABELS: targets,
    }
    for loss in losses.values():
        bottoms = [blob for kind in loss.row.reads for blob in blobs[kind]]
        _add_python_loss(net, loss, bottoms, diagnostics, hierarchies)
    if len(sizes) > 1:
        reading = [CSM, *(row.name for row in rows if ALL_LABELS in row.reads)]
        # In training such a loss takes the place of all that reads the coarse labels.
        alone = [row.name for row in rows if row.marginals and ALL_LABELS not in row.reads]
        net.layer.add(
            name="unused_labels",
            type="Silence",
            bottom=targets[1:],
            include=[
                dict(phase=TRAIN, not_stage=reading),
                *(dict(phase=TRAIN, stage=[CSM, stage]) for stage in alone),
                dict(phase=TEST, not_stage=[CSM]),
            ],
        )
