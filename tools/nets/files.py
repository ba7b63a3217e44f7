"""Every file of one (data set, network): names and text."""

from dataclasses import replace

from . import deploy, head, solver, tables, text
from .train_val import train_val


def _net_header(dataset, net, folder):
    levels = ", ".join(f"{head.label(level)} {name} ({classes})" for level, (name, classes)
                       in enumerate(zip(dataset.levels, dataset.sizes), 1))
    solver_file = f"{folder}/{dataset.name}_{net.name}_ours_solver.prototxt"
    return [
        f"{net.title} on {dataset.title}, every variant. "
        "Written by tools/make_prototxt.py: change it there.",
        f"Levels: {levels}.",
        f"LMDBs:  {dataset.build}",
        f"Train:  caffe train -solver {solver_file} -weights {net.weights}",
        "A solver's stages choose the variant:",
        "  none   the network with a new fine classifier, fc8_fine: SM",
        "  csm    + coarse classifiers on the scores of the finer ones: CSM",
        "  skip   + which also read the feature: SC-CSM (only with csm)",
        f"  glm    + the large-margin loss on the feature, {net.feature}: SM-GLM, CSM-GLM, OURS",
        f"  {', '.join(tables.RIVALS)}: instead, the losses that the paper compares with it",
    ]


def _net_notes(dataset, net):
    crop = dataset.crop or net.crop
    images = [f"Images: random {crop} x {crop} crops in training, the centre in tests; "
              "blue-green-red minus",
              "the mean colour of ImageNet." + ("" if dataset.mirror else
              " No mirror images: that of one class can look like another class.")]
    auxiliary = ["Auxiliary classifier of the original, training only, of the fine classes."]
    return {
        "data": images,
        "label": ["Same keys, order and batch size as the images: the two stay in step."],
        "loss1/ave_pool": auxiliary,
        "loss2/ave_pool": auxiliary,
        net.dropped: ["Not in place: the large-margin loss reads the feature before dropout."],
        "fc8_fine": ["From here on new layers: they start random, and learn at 10 times the rate."],
        "feature_vector": ["C x 1 x 1 becomes C, which Concat can join with scores."],
        **{f"loss_{head.tag(level)}": [f"Level {level} of {len(dataset.levels)}: {name}."]
           for level, name in enumerate(dataset.levels, 1)},
        "glm": ["Eqs. (3)-(18); loss_weight is lambda of Eq. (2); one margin per level.",
                'within_gradient: Eq. (20) as printed; "exact" is the derivative of Eq. (5).',
                "normalize: features of length 1 inside the loss; raw ones grow and it diverges."],
        **{name: list(rival.note) for name, rival in tables.RIVALS.items()},
        "unused_labels": ["Caffe would print the values of a label that nothing reads."],
    }


def file_texts(dataset, net, folder, variants=tuple(tables.STAGES), *, name=None, batch=None,
               max_iter=None, base_lr=None, glm=None):
    """{file name: text} of a tables.Dataset with a tables.Net: net, solvers, deploy file of OURS.

    folder    where the files will lie, as `caffe train` will be told
    name      in file names and snapshot folders, instead of the data set's
    batch, max_iter, base_lr    instead of the schedule's
    glm       parameters of the large-margin loss, instead of or besides the tables'
    """
    schedule = tables.SCHEDULES.get((dataset.name, net.name), net.schedule)
    dataset = replace(dataset.for_net(net), name=name or dataset.name)
    pair = f"{dataset.name}_{net.name}"
    batch = batch or schedule.batch
    test_batch = solver.batch_that_divides(dataset.test, net.test_batch)
    proto = train_val(dataset, net, batch, test_batch,
                      {**tables.glm_parameters(len(dataset.sizes)), **(glm or {})})
    trained = deploy.deploy(proto, tables.STAGES["ours"], len(dataset.sizes),
                            dataset.crop or net.crop)
    return {
        f"{pair}_train_val.prototxt": text.net_text(
            proto, _net_header(dataset, net, folder), _net_notes(dataset, net)),
        **{f"{pair}_{variant}_solver.prototxt": solver.solver_text(
            dataset, net, variant, folder, batch=batch, test_batch=test_batch,
            base_lr=base_lr or schedule.base_lr,
            max_iter=max_iter or solver.iterations(schedule, dataset.train, batch),
            why={field: reason for field, reason in schedule.why.items()
                 if not {"max_iter": max_iter, "base_lr": base_lr}.get(field)})
           for variant in variants},
        f"{pair}_deploy.prototxt": text.net_text(trained, [
            f"{net.title}-OURS on {dataset.title}, trained, for OpenCV's dnn and other readers.",
            "In: images, blue-green-red, 0..255 minus 104 117 123. Out: probabilities per level.",
            "Written by tools/make_prototxt.py: change it there."], {}),
    }
