"""Every file of one (data set, network): names and text."""

from dataclasses import replace

from . import deploy, head, solver, tables, text
from .train_val import train_val


def _numbered(dataset):
    return ", ".join(f"label_{level} {name} ({classes})"
                     for level, (name, classes) in enumerate(zip(dataset.levels, dataset.sizes), 1))


def _net_header(dataset, net, folder):
    pair = f"{dataset.name}_{net.name}"
    return "\n".join([
        f"{net.title} on {dataset.title}, every variant. Written by tools/make_prototxt.py: change it there.",
        f"Levels: {_numbered(dataset)}.",
        f"LMDBs:  {dataset.build}",
        f"Train:  caffe train -solver {folder}/{pair}_ours_solver.prototxt -weights {net.weights}",
        "Stages, named by the solver, choose the variant:",
        "  (none) the network with a new fine classifier, fc8_fine      SM",
        "  csm    + coarse classifiers on the finer ones' scores        CSM",
        "  skip   + which also see the feature (with csm)               SC-CSM",
        f"  glm    + large-margin loss on the feature, {net.feature:17s} SM-GLM, CSM-GLM, with csm and skip OURS",
    ])


def _net_notes(dataset, net):
    crop = dataset.crop or net.crop
    mirrored = "" if dataset.mirror else ("\nNo mirroring: the mirror image of one of these classes is not that class.")
    cascade = {f"loss_{head.tag(level)}": f"{name}: level {level} of {len(dataset.levels)}."
               for level, name in enumerate(dataset.levels, 1)}
    return {
        "data": f"Images: random {crop} x {crop} crops in training, the centre in tests; blue-green-red minus "
                f"ImageNet's mean.{mirrored}",
        "label": "Same keys in the same order and the same batch size as the images: the two stay in step.",
        "labels": "One blob per level.",
        "loss1/ave_pool": "Auxiliary classifier of the original; here of the fine classes.",
        "loss2/ave_pool": "Auxiliary classifier of the original; here of the fine classes.",
        net.dropped: "Not in place: the large-margin loss reads the feature before dropout.",
        "fc8_fine": "From here on new layers: they start at random, so they learn at 10 times the rate.",
        "feature_vector": "C x 1 x 1 to C, which is what can be joined with class scores.",
        **cascade,
        "glm": "Eqs. (3)-(18); loss_weight is lambda of Eq. (2). One margin per level.\n"
               "within_gradient: Eq. (20) as printed (\"exact\": the derivative of Eq. (5)).\n"
               "normalize: features of length 1 inside the loss; raw ones grow until the loss diverges.",
        "unused_labels": "Else Caffe prints every label nobody reads.",
    }


def file_texts(dataset, net, folder, variants=tuple(tables.STAGES), *, name=None, batch=None, max_iter=None, base_lr=None,
               glm=None):
    """{file name: text} of a data set (tables.Dataset) with a network (tables.Net): net, solvers, deploy.

    folder: where the files will lie, as `caffe train` will be told. name: in file names and snapshot folders,
    instead of the data set's. batch, max_iter, base_lr: instead of the
    schedule's. glm: parameters of the large-margin loss that replace or add to the tables'.
    """
    schedule = tables.SCHEDULES.get((dataset.name, net.name), net.schedule)
    dataset = replace(dataset.for_net(net), name=name or dataset.name)
    pair = f"{dataset.name}_{net.name}"
    batch = batch or schedule.batch
    test_batch = solver.batch_that_divides(dataset.test, net.test_batch)
    margin = tables.GLM_PARAMETERS["margins"]
    parameters = {**tables.GLM_PARAMETERS, "margins": [margin] * len(dataset.sizes), **(glm or {})}
    proto = train_val(dataset, net, batch, test_batch, parameters)
    out = {f"{pair}_train_val.prototxt": text.net_text(proto, _net_header(dataset, net, folder),
                                                       _net_notes(dataset, net))}
    iterations = max_iter or solver.iterations(schedule, dataset.train, batch)
    for variant in variants:
        out[f"{pair}_{variant}_solver.prototxt"] = solver.solver_text(
            dataset, net, variant, folder, batch=batch, test_batch=test_batch, max_iter=iterations,
            base_lr=base_lr or schedule.base_lr, why={} if max_iter else schedule.why)
    if "ours" in variants:
        trained = deploy.deploy(proto, tables.STAGES["ours"], len(dataset.sizes), dataset.crop or net.crop)
        out[f"{pair}_deploy.prototxt"] = text.net_text(trained, "\n".join([
            f"{net.title}-OURS on {dataset.title}, trained: images in (blue-green-red, 0..255 minus 104 117 123), "
            "probabilities per level out.",
            "For OpenCV's dnn and other readers. Written by tools/make_prototxt.py: change it there."]), {})
    return out
