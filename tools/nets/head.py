"""The paper's head (Figs. 3 and 4), the same for every network and any number of levels.

Blobs: label B x h x 1 x 1 -> label_1 (fine) .. label_h, each B x 1 x 1 x 1, 0-based class ids; fc8_fine B x C(1),
fc9_coarse B x C(2), fc10_coarse ...: class scores before softmax; loss_* and accuracy_* scalars.
Stages: csm (coarse classifiers), skip (they also see the feature), glm (large-margin loss on the feature).
"""

import json

from caffe import TEST, TRAIN

from .backbones import NEW, constant
from .tables import GLM_WEIGHT

CSM, SKIP, GLM = "csm", "skip", "glm"


def tag(level):
    """Name of a level (1 = fine) in losses, accuracies and probabilities."""
    return "fine" if level == 1 else scores(level)


def scores(level):
    """Name of the classifier of a level: the paper's fc8', fc9, fc10."""
    return f"fc{7 + level}_{'fine' if level == 1 else 'coarse'}"


def label(level):
    """Name of a level's label blob."""
    return f"label_{level}"


def add_slice(net, levels):
    """label -> label_1 .. label_h."""
    net.layer.add(name="labels", type="Slice", bottom=["label"], slice_param=dict(axis=1),
                  top=[label(level) for level in range(1, levels + 1)])


def _classifier(net, level, bottom, classes, filler, include=()):
    net.layer.add(name=scores(level), type="InnerProduct", bottom=[bottom], top=[scores(level)], param=NEW,
                  include=include,
                  inner_product_param=dict(num_output=classes, weight_filler=filler, bias_filler=constant(0)))


def _loss(net, level, include=()):
    bottoms = [scores(level), label(level)]
    net.layer.add(name=f"loss_{tag(level)}", type="SoftmaxWithLoss", bottom=bottoms, top=[f"loss_{tag(level)}"],
                  loss_weight=[1], include=include)
    net.layer.add(name=f"accuracy_{tag(level)}", type="Accuracy", bottom=bottoms, top=[f"accuracy_{tag(level)}"],
                  include=[{**rule, "phase": TEST} for rule in include or [{}]])


def add_head(net, feature, dropped, sizes, filler, glm, flatten):
    """Append classifiers, losses and accuracies of all variants.

    net: NetParameter that has blobs `feature` (after ReLU), `dropped` (the same after dropout) and label_1 .. label_h.
    sizes: classes per level, fine first. glm: parameters of the large-margin loss. flatten: the feature is a
    C x 1 x 1 map, which Concat cannot join with the classifiers' vectors as it is.
    """
    levels = range(1, len(sizes) + 1)
    alone, skipping = dict(stage=[CSM], not_stage=[SKIP]), dict(stage=[CSM, SKIP])

    _classifier(net, 1, dropped, sizes[0], filler)
    _loss(net, 1)
    if len(sizes) > 1:
        joined = dropped
        if flatten:
            joined = "feature_vector"
            net.layer.add(name=joined, type="Flatten", bottom=[dropped], top=[joined], include=[skipping])
    for level in levels[1:]:
        inputs = f"{scores(level).split('_')[0]}_input"
        net.layer.add(name=inputs, type="Concat", top=[inputs], include=[skipping],
                      bottom=[joined] + [scores(below) for below in range(1, level)])
        _classifier(net, level, scores(level - 1), sizes[level - 1], filler, [alone])
        _classifier(net, level, inputs, sizes[level - 1], filler, [skipping])
        _loss(net, level, [dict(stage=[CSM])])

    net.layer.add(name="glm", type="Python", bottom=[feature] + [label(level) for level in levels], top=["glm_loss"],
                  loss_weight=[GLM_WEIGHT], include=[dict(phase=TRAIN, stage=[GLM])],
                  python_param=dict(module="python_layers.glm_loss", layer="GLMLossLayer", param_str=json.dumps(glm)))
    if len(sizes) > 1:
        net.layer.add(name="unused_labels", type="Silence", bottom=[label(level) for level in levels[1:]],
                      include=[dict(phase=TRAIN, not_stage=[CSM, GLM]), dict(phase=TEST, not_stage=[CSM])])
