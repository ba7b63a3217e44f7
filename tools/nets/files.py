"""Every file of one (data set, network): names, text, writing."""

import itertools
import re
from pathlib import Path

from data_prep.common.errors import UserError
from data_prep.common.files import write_whole

from . import deploy, head, solver, tables, text
from .losses import net_losses
from .smoothing import smoothing
from .train_val import train_val

MADE_BY = "tools/make_prototxt.py from the tables in tools/nets/: change it there."  # prototxt/


def _input(net):
    """What a tables.Net reads, in words."""
    if net.reads_features:
        return "features, as they are stored"
    return f"images, {_pixels(net.transform)}"


def _pixels(transform):
    """Pixels in words. transform: fields of a TransformationParameter."""
    words = "blue-green-red, 0..255"
    if "mean_value" in transform:
        words += f" minus {' '.join(f'{value:g}' for value in transform['mean_value'])}"
    if "mean_file" in transform:
        words += f" minus {transform['mean_file']}"
    if "scale" in transform:
        words += f", times {transform['scale']:g}"
    return words


def _stage_lines(dataset, net, losses, skip_input, divided):
    """What each stage adds to the network, a line or two each."""
    lines = {
        "none": ["the network with a new fine classifier, fc8_fine: SM"],
        head.CSM: [f"+ coarse classifiers on the {skip_input} of the finer ones: CSM"],
        head.SKIP: ["+ which also read the feature: SC-CSM (only with csm)"],
        head.FLAT: ["+ which read the feature alone (only with csm)"],
    }
    if divided:
        lines[head.FGON] = [
            "+ which read parts of the feature: each its own and, sending no gradient, the finer",
            f"ones (only with csm): {tables.TITLES['fgon']}",
        ]
    for name, loss in losses.items():
        row = loss.row
        titles = [tables.TITLES[key] for key, stages in tables.STAGES.items() if name in stages]
        called = f"the {row.called} ({row.source}) on {row.on(net.feature)}"
        lines[name] = [f"+ {called}: {', '.join(titles)}"]
        if row.scored:
            lines[name] = [f"{called}", f"instead of softmax losses: {', '.join(titles)}"]
    for setting in dataset.settings(net)[1:]:
        for stage in setting.stages:
            lines[stage] = [
                "with any of them: images cut to the ground-truth boxes",
                setting.command,
            ]
    width = max(map(len, lines))
    return [
        f"  {'' if number else stage:{width}s}  {line}"
        for stage, texts in lines.items()
        for number, line in enumerate(texts)
    ]


def _net_header(dataset, net, folder, name, made_by, losses, skip_input, divided):
    whole = dataset.settings(net)[0]
    levels = ", ".join(
        f"{head.label(number)} {level} ({classes})"
        for number, level, classes in zip(dataset.numbers, dataset.levels, dataset.sizes)
    )
    solver_file = f"{folder}/{name}_{net.name}_ours_solver.prototxt"
    return [
        f"{net.title} on {whole.title}, every variant.",
        f"Made by {made_by}",
        f"Levels: {levels}.",
        f"LMDBs:  {whole.command}",
        f"Train:  caffe train -solver {solver_file}{net.start}",
        "A solver's stages choose the variant:",
        *_stage_lines(dataset, net, losses, skip_input, divided),
    ]


def _net_notes(dataset, net, crop, losses, attributes, label_smoothing):
    images = [
        f"Images: random {crop} x {crop} crops in training, the center in tests;",
        f"{_pixels(net.transform)}.",
    ]
    if net.reads_features:
        images = ["Features of crops: one record each in training, the center in tests."]
    elif not dataset.mirror:
        images.append("No mirroring: a mirrored image can look like another class.")
    dropped = (
        {}
        if net.dropped == net.feature
        else {
            net.dropped: ["Not in place: the large-margin loss reads the feature before dropout."]
        }
    )
    return {
        "data": images,
        "label": ["Same keys, order and batch size as the images, so that the two stay in step."],
        **dropped,
        "fc8_fine": ["New layers from here on: they start random, and learn at 10 times the rate."],
        head.PARTS: ["A part of the feature for each level; Chang et al. 2021."],
        "feature_vector": ["C x 1 x 1 becomes C, which Concat can join with scores."],
        **{
            f"loss_{head.tag(level)}": [f"Level {level} of {len(dataset.levels)}: {name}."]
            for level, name in enumerate(dataset.levels, 1)
        },
        smoothing(f"loss_{head.tag(1)}"): [
            "Label smoothing, of every softmax loss in training (Szegedy et al. 2016): a share of",
            f"{label_smoothing:g} of the target is spread over all classes. H is uniform.",
        ],
        **{name: list(loss.note) for name, loss in losses.items()},
        **{
            head.attributes(number): [
                f"Attributes of the classes: {path}. No image is labeled with one: the loss sums "
                "over those of its class."
            ]
            for number, (path, _) in enumerate(attributes, 1)
        },
        **{
            f"{name}_marginals": [
                "In place: the logarithms of the probabilities of each level's classes, in tests."
            ]
            for name, loss in losses.items()
            if loss.row.marginals
        },
        "other_labels": ["Levels that this net doesn't classify; Caffe would print their values."],
        "unused_labels": ["Caffe would print the values of a label that nothing reads."],
        **net.notes,
    }


def _deploy_header(title, net, proto, made_by):
    readers = "OpenCV's dnn and other readers"
    if any(layer.type == "Python" for layer in proto.layer):
        readers = "pycaffe; others lack its Python layer"
    return [
        f"{net.title}-OURS on {title}, trained, for {readers}.",
        f"In: {_input(net)}.",
        "Out: probabilities per level.",
        f"Made by {made_by}",
    ]


def file_texts(
    dataset,
    net,
    folder,
    variants=tables.COMMITTED,
    *,
    chosen=None,
    name=None,
    run=None,
    given=None,
    weights=None,
    scale=None,
    diagnostics=False,
    skip_input=head.SCORES,
    frozen=False,
    attributes=(),
    label_smoothing=0.0,
    made_by=MADE_BY,
):
    """{file name: text} of a data.Dataset with a tables.Net: net, solvers, deploy file of OURS.

    The net reads the data set in every setting. It has the stages of the committed variants, and
    those of the variants asked for.

    folder    of the files, relative to where `caffe train` will run
    chosen    stages of the setting of the solvers, () or (data.BBOX,); default: of all settings
    name      in file names and snapshot folders, instead of the data set's
    run       {keyword of solver.run_of: value}
    given, weights, scale       of the losses: losses.net_losses
    diagnostics    whether the metric losses print theirs
    skip_input     what coarse classifiers read of the finer ones, head.SCORES or PROBABILITIES
    frozen    whether only the head learns
    attributes     (path, number of attributes) of each table of attributes for the losses that
                   read them, see python_layers/label_tree.py: read_graph
    label_smoothing   as train_val.train_val
    made_by   the command that makes the files, for their first lines
    """
    settings, name = dataset.settings(net), name or dataset.name
    crop, shape, pair = settings[0].crop, settings[0].shape, f"{name}_{net.name}"
    run = solver.run_of(dataset, net, **(run or {}))
    some = dataset.levels if len(dataset.levels) < len(dataset.tree) else None
    labels = tables.Labels(dataset.sizes, settings[0].hierarchy, some)
    stages = {stage for known in (*variants, *tables.COMMITTED) for stage in tables.STAGES[known]}
    divided = head.FGON in stages
    given = {**(given or {})}
    for row in tables.LOSSES.values():
        if attributes and tables.ATTRIBUTES in row.reads:
            paths = [path for path, _ in attributes]
            more = dict(attributes=paths, attribute_labels=False)
            given[row.name] = {**given.get(row.name, {}), **more}
    strengths = net.strengths | tables.STRENGTHS.get(dataset.pair(net), {})
    found = net_losses(labels, strengths=strengths, weights=weights, scale=scale, given=given)
    losses = {loss: one for loss, one in found.items() if loss in stages}
    proto = train_val(
        pair,
        dataset,
        net,
        run,
        losses,
        diagnostics=diagnostics,
        skip_input=skip_input,
        divided=divided,
        frozen=frozen,
        tables_of=[count for _, count in attributes],
        label_smoothing=label_smoothing,
    )
    trained = deploy.deploy(proto, tables.STAGES["ours"], len(dataset.sizes), shape)
    return {
        f"{pair}_train_val.prototxt": text.net_text(
            proto,
            _net_header(dataset, net, folder, name, made_by, losses, skip_input, divided),
            _net_notes(dataset, net, crop, losses, attributes, label_smoothing),
        ),
        **{
            f"{setting.named(name)}_{net.name}_{variant}_solver.prototxt": solver.solver_text(
                dataset,
                setting,
                net,
                variant,
                run,
                losses=losses,
                skip_input=skip_input,
                folder=folder,
                name=name,
                made_by=made_by,
            )
            for setting in settings
            if chosen in (None, setting.stages)
            for variant in variants
        },
        f"{pair}_deploy.prototxt": text.net_text(
            trained, _deploy_header(settings[0].title, net, trained, made_by), {}
        ),
    }


def write(texts):
    """Write {path: text}, and make the folders of the snapshots that the solvers name.

    UserError, before anything is written, where that would replace a file written by hand.
    """
    for path in texts:
        if Path(path).exists() and not _generated(path):
            raise UserError(f"{path} exists, and no tool here wrote it: choose another --out")
    for path, content in texts.items():
        write_whole(path, content)
        for prefix in re.findall(r'(?m)^snapshot_prefix: "(.*)/', content):
            Path(prefix).mkdir(parents=True, exist_ok=True)  # Caffe doesn't


# Beginnings of a line in the header of a generated prototxt, of today's and earlier versions.
OURS = ("# Made by tools/", "# Written by tools/")


def _generated(path):
    """Whether a prototxt says, at its start, that make_prototxt or graft wrote it."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    comments = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return any(line.startswith(OURS) for line in comments)
