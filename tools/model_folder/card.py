"""README.md of an exported model: what it is, what it reads and answers, how good, where from."""

from data_prep import control, manifest as manifests
from data_prep.common import text_table
from tools.nets import tables
from tools.recognition import examples as sheets

from .agreement import BATCHES, TOLERANCE

LICENSE = (
    "Not stated. The terms of the photographs and of the weights that training started from apply; "
    "state your own with `--license`."
)
FILES = (
    ("model.onnx", "the net and its weights, ONNX opset 13, any number of images at a time: ONNX "
     "Runtime, OpenCV 4 and 5 and others read it"),
    ("deploy.prototxt", "the net for Caffe and OpenCV 4"),
    ("weights.caffemodel", "its weights"),
    ("labels.json", "names of the classes per level, their parents, the net's outputs"),
    ("preprocessing.json", "how a photograph becomes the input"),
    ("hierarchy.tsv", "the label tree as a table"),
    ("example.py", "classifies photographs with this folder, NumPy and OpenCV alone"),
    ("export.json", "checksums of these files"),
)  # fmt: skip

SHEET = (sheets.FILE, "a training image of every class, for pages such as tools/serve.py's")
EXAMPLES = (
    f"`{sheets.FILE}` shows small copies of training photographs, one per class, which remain "
    "under the license of those photographs; the model works without the file."
)


def text(trained, experiment, commit, digest, agreed, unread, result, license, examples):
    """The text of README.md.

    trained   recognition.trained.Trained
    agreed    [agreement.Agreed]; unread: {name of a reader: why it can't read its file}
    result    results.Result of these weights, or None
    license   text, or None
    examples  whether the folder has a sheet of training images
    """
    manifest = manifests.read(trained.data)
    levels = " -> ".join(
        f"{size} {level}" for level, size in zip(trained.hierarchy.levels, trained.hierarchy.sizes)
    )
    counts = ", ".join(
        f"{manifest.splits[split].images} {split}" for split in manifest.present_splits
    )
    rows = [*FILES[:-1], SHEET, FILES[-1]] if examples else FILES
    parts = [
        f"# {experiment}\n",
        f"Recognizes what a photograph shows on {len(trained.hierarchy.levels)} levels of a label "
        f"tree: {levels}. {_variant(trained.stages)}, trained in Caffe.\n",
        "    python example.py PHOTO ...\n",
        f"**Input.** {trained.preprocessing.words}\n",
        "**Output.** Per level with a classifier, probabilities of its classes:\n",
        *text_table.markdown(_rows(trained, result)),
        "",
        _evaluated(result),
        "",
        f"**Data.** `{manifest.name}`: {counts} images.{_boxes(manifest)}{_control(manifest)}\n",
        *_checks(agreed, unread),
        "",
        f"**Origin.** {trained.file}, solver {trained.solver.name}, weights "
        f"{trained.weights.name} (SHA-256 {digest}); exported by commit {commit} of "
        "hierarchical-caffe.\n",
        f"**License.** {license or LICENSE}{' ' + EXAMPLES if examples else ''}\n",
        *text_table.markdown([("file", ""), *((f"`{name}`", what) for name, what in rows)]),
    ]
    return "\n".join(parts) + "\n"


def _variant(stages):
    titles = {tables.STAGES[name]: tables.TITLES[name] for name in tables.STAGES}
    own = tuple(stage for stage in stages if stage != "bbox")
    return titles.get(own, f"Stages {', '.join(own)}")


def _rows(trained, result):
    """Rows of the table of levels."""
    yield "level", "classes", "output", "top-1", "top-1 from fine"
    for j, (level, size) in enumerate(zip(trained.hierarchy.levels, trained.hierarchy.sizes)):
        output = f"`{trained.outputs[j]}`" if j in trained.outputs else "-"
        found = result.levels[j] if result else None
        yield (
            level,
            str(size),
            output,
            *(
                _percent(share)
                for share in ((found.head, found.from_fine) if found else (None, None))
            ),
        )


def _percent(share):
    if share is None:
        return "-"
    low, high = share.interval
    return f"{share.top1:.1%} ({low:.1%} - {high:.1%})"


def _evaluated(result):
    if result is None:
        return "These weights have not been evaluated (tools/evaluate.py)."
    return (
        f"Top-1 on {result.images} {result.split} images, with 95 % intervals; from fine: the "
        "ancestors of the most probable fine class."
    )


def _boxes(manifest):
    boxes = manifest.options.reader.get("bbox")
    return " Images were cut to their ground-truth boxes." if boxes else ""


def _control(manifest):
    mark = control.mark(manifest.options)
    return mark and f" This is a control: {mark}; only the fine classes have a meaning."


def _checks(agreed, unread):
    sizes = " and ".join(map(str, sorted(BATCHES)))
    yield (
        f"**Checked** when it was exported: on photographs, {sizes} at a time, these agree with "
        f"Caffe within {TOLERANCE:g} of every probability and in every most probable class: "
        f"{', '.join(one.name for one in agreed)}."
    )
    for name, why in unread.items():
        yield f"{name} can't read its file: {why}."
