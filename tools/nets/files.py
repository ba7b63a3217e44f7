"""Every file of one (data set, network): names, text, writing."""

import re
from dataclasses import replace
from pathlib import Path

from data_prep.common.files import write_whole

from . import deploy, head, solver, tables, text
from .train_val import train_val


def _pixels(transform):
    """What the net reads, in words. transform: fields of a TransformationParameter."""
    words = "blue-green-red, 0..255"
    if "mean_value" in transform:
        words += f" minus {' '.join(f'{value:g}' for value in transform['mean_value'])}"
    if "mean_file" in transform:
        words += f" minus {transform['mean_file']}"
    if "scale" in transform:
        words += f", times {transform['scale']:g}"
    return words


def _net_header(settings, net, folder):
    dataset = settings[0]
    numbers = dataset.labels or range(1, len(dataset.levels) + 1)
    levels = ", ".join(
        f"{head.label(number)} {name} ({classes})"
        for number, name, classes in zip(numbers, dataset.levels, dataset.sizes)
    )
    solver_file = f"{folder}/{dataset.setting}_{net.name}_ours_solver.prototxt"
    return [
        f"{net.title} on {dataset.title}, every variant.",
        f"Written by {net.written_by}: change it there.",
        f"Levels: {levels}.",
        f"LMDBs:  {dataset.command}",
        f"Train:  caffe train -solver {solver_file} -weights {net.weights}",
        "A solver's stages choose the variant:",
        "  none   the network with a new fine classifier, fc8_fine: SM",
        "  csm    + coarse classifiers on the scores of the finer ones: CSM",
        "  skip   + which also read the feature: SC-CSM (only with csm)",
        f"  glm    + the large-margin loss on the feature, {net.feature}: SM-GLM, CSM-GLM, OURS",
        f"  {', '.join(tables.RIVALS)}: instead, the losses that the paper compares with it",
        *(
            f"  {stage}   with any of them: images cut to the ground-truth boxes\n"
            f"         {setting.command}"
            for setting in settings
            for stage in setting.stages
        ),
    ]


def _net_notes(dataset, net):
    images = [
        f"Images: random {dataset.crop} x {dataset.crop} crops in training, the centre in tests;",
        f"{_pixels(net.transform)}.",
    ]
    if not dataset.mirror:
        images.append("No mirror images: that of one class can look like another class.")
    dropped = (
        {}
        if net.dropped == net.feature
        else {
            net.dropped: ["Not in place: the large-margin loss reads the feature before dropout."]
        }
    )
    return {
        "data": images,
        "label": ["Same keys, order and batch size as the images: the two stay in step."],
        **dropped,
        "fc8_fine": ["From here on new layers: they start random, and learn at 10 times the rate."],
        "feature_vector": ["C x 1 x 1 becomes C, which Concat can join with scores."],
        **{
            f"loss_{head.tag(level)}": [f"Level {level} of {len(dataset.levels)}: {name}."]
            for level, name in enumerate(dataset.levels, 1)
        },
        "glm": [
            "Eqs. (3)-(18); loss_weight is lambda of Eq. (2); one margin per level.",
            'within_gradient: Eq. (20) as printed; "exact" is the derivative of Eq. (5).',
            "normalize: features of length 1 inside the loss; raw ones grow and it diverges.",
        ],
        **{name: list(rival.note) for name, rival in tables.RIVALS.items()},
        "other_labels": ["Levels that this net doesn't classify; Caffe would print their values."],
        "unused_labels": ["Caffe would print the values of a label that nothing reads."],
        **net.notes,
    }


def _deploy_header(dataset, net, proto):
    readers = "OpenCV's dnn and other readers"
    if any(layer.type == "Python" for layer in proto.layer):
        readers = "pycaffe; others lack its Python layer"
    return [
        f"{net.title}-OURS on {dataset.title}, trained, for {readers}.",
        f"In: images, {_pixels(net.transform)}.",
        "Out: probabilities per level.",
        f"Written by {net.written_by}: change it there.",
    ]


def file_texts(
    dataset,
    net,
    folder,
    variants=tuple(tables.STAGES),
    *,
    chosen=None,
    name=None,
    batch=None,
    max_iter=None,
    base_lr=None,
    glm=None,
    diagnostics=False,
):
    """{file name: text} of a tables.Dataset with a tables.Net: net, solvers, deploy file of OURS.

    The net reads the data set in every setting; chosen are the settings' stages of the solvers.

    folder    where the files will lie, as `caffe train` will be told
    chosen    stages of one setting, () or (tables.BBOX,); default: solvers of all settings
    name      in file names and snapshot folders, instead of the data set's
    batch, max_iter, base_lr    instead of the schedule's
    glm       parameters of the large-margin loss, instead of or besides the tables'
    diagnostics    whether the metric losses print theirs
    """
    schedule = tables.SCHEDULES.get((dataset.name, net.name), net.schedule)
    settings = [
        replace(setting.for_net(net), name=name or dataset.name) for setting in dataset.settings()
    ]
    dataset, pair = settings[0], f"{settings[0].name}_{net.name}"
    batch = batch or schedule.batch
    why = dict(schedule.why)
    if max_iter:
        why.pop("max_iter", None)
    if base_lr:
        why["base_lr"] = "--base-lr; new layers take more: lr_mult in the net"
    test_batch = solver.batch_that_divides(dataset.test, net.test_batch)
    proto = train_val(
        settings,
        net,
        batch,
        test_batch,
        {**tables.glm_parameters(len(dataset.sizes)), **(glm or {})},
        diagnostics,
    )
    trained = deploy.deploy(proto, tables.STAGES["ours"], len(dataset.sizes), dataset.crop)
    return {
        f"{pair}_train_val.prototxt": text.net_text(
            proto, _net_header(settings, net, folder), _net_notes(dataset, net)
        ),
        **{
            f"{setting.setting}_{net.name}_{variant}_solver.prototxt": solver.solver_text(
                setting,
                net,
                variant,
                folder,
                batch=batch,
                test_batch=test_batch,
                base_lr=base_lr or schedule.base_lr,
                max_iter=max_iter or solver.iterations(schedule, dataset.train, batch),
                why=why,
            )
            for setting in settings
            if chosen in (None, setting.stages)
            for variant in variants
        },
        f"{pair}_deploy.prototxt": text.net_text(
            trained, _deploy_header(dataset, net, trained), {}
        ),
    }


def write(texts):
    """Write {path: text}, and make the folders of the snapshots that the solvers name."""
    for path, content in texts.items():
        write_whole(path, content)
        for prefix in re.findall(r'(?m)^snapshot_prefix: "(.*)/', content):
            Path(prefix).mkdir(parents=True, exist_ok=True)  # Caffe doesn't
