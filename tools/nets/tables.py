"""The numbers behind prototxt/: data sets, variants, networks."""

from dataclasses import dataclass, field, replace

from data_prep.color import IMAGENET_BGR_MEAN
from tools.pycaffe import NetSpec, layers as L

from . import backbones

BBOX = "bbox"  # stage, and suffix of names: images cut to the ground-truth boxes


@dataclass(frozen=True)
class Dataset:
    """A data set as `caffe train` sees it. Levels run from fine to coarse; counts are images."""

    name: str
    title: str
    levels: tuple  # names of the levels that are classified
    sizes: tuple  # classes per level
    train: int
    test: int
    command: str  # that makes its LMDBs
    size: int = 256  # side of the images that this command stores if it isn't told
    boxes: bool = False  # can the images be cut to ground-truth boxes?
    mirror: bool = True  # is the mirror image of an image of this class one too?
    crop: int = 0  # side of the input of networks that take any size; 0: the network's own
    folder: str = ""  # of the LMDBs; empty: in data/, see for_net
    labels: tuple = ()  # numbers of the levels in the label LMDB, 1 = finest; empty: 1, 2, ...
    depth: int = 0  # levels in the label LMDB; 0: those of levels
    stages: tuple = ()  # that choose these images in a net which can read others too

    @property
    def setting(self):
        """Name of the data set with that of the setting: cub, cub_bbox."""
        return "_".join((self.name, *self.stages))

    def settings(self):
        """The paper's settings: the whole images and, with boxes, the images cut to them."""
        if not self.boxes:
            return (self,)
        return (
            self,
            replace(
                self,
                title=f"{self.title}, cut to the ground-truth boxes",
                command=f"{self.command} --bbox",
                stages=(BBOX,),
            ),
        )

    def for_net(self, net):
        """This data set as the Net reads it: folder, crop, the command that makes the folder."""
        size = self.size if self.folder or net.any_size else max(self.size, net.stored)
        known = f"data/{self.setting}" + (f"_{size}" if size != self.size else "")
        command = self.command
        if size != self.size:
            command += f" --size {size} --out {known}"
        small = net.any_size and self.crop and size < net.crop
        return replace(
            self,
            size=size,
            command=command,
            folder=self.folder or known,
            crop=self.crop if small else net.crop,
        )


DATASETS = {
    d.name: d
    for d in [
        Dataset(
            "cars",
            "Stanford Cars",
            ("model", "body_type"),
            (196, 9),
            8144,
            8041,
            command="data_prep/build_lmdb.py cars --root /data/stanford_cars",
            boxes=True,
        ),
        Dataset(
            "aircraft",
            "FGVC-Aircraft",
            ("variant", "family", "manufacturer"),
            (100, 70, 30),
            6667,
            3333,
            boxes=True,
            command="data_prep/build_lmdb.py aircraft --root /data/fgvc-aircraft-2013b",
        ),
        Dataset(
            "cub",
            "CUB-200-2011",
            ("species", "family", "order"),
            (200, 40, 13),
            5994,
            5794,
            command="data_prep/build_lmdb.py cub --root /data/CUB_200_2011",
            boxes=True,
        ),
        # A card fills its image, so a net must see nearly all of it: networks whose input has a fixed
        # size read a larger build than SqueezeNet, which is the demo's and quick.
        Dataset(
            "cards",
            "playing cards",
            ("card", "suit", "colour"),
            (52, 4, 2),
            1487,
            572,
            command="data_prep/build_lmdb.py cards",
            size=160,
            crop=144,
            mirror=False,
        ),
    ]
}

GLM_WEIGHT = 0.8  # lambda of Eq. (2); the paper's choice


@dataclass(frozen=True)
class Rival:
    """A metric loss that the paper compares with GLM: softmax and this, of the fine labels.

    Its stage is its name, its variant sm_<name>. The paper gives neither weights nor parameters:
    these are the losses' own authors', or what note says.
    """

    name: str
    title: str
    layer: str  # class in python_layers/<name>_loss.py
    weight: float
    parameters: object  # function(fine classes) -> dict, see the layer
    note: tuple  # comment lines
    param: tuple = ()  # ParamSpecs of the layer's own blobs


RIVALS = {
    r.name: r
    for r in [
        Rival(
            "contrastive",
            "SM-contrastive",
            "ContrastiveLossLayer",
            0.05,
            lambda classes: dict(margin=1, normalize=True),
            ("All pairs of the batch. Weight: DeepID2's (Sun et al. 2014).",),
        ),
        Rival(
            "triplet",
            "SM-triplet",
            "TripletLossLayer",
            1.0,
            lambda classes: dict(margin=0.2, mining="semihard", normalize=True),
            ("Margin, mining and features of length 1: FaceNet's (Schroff et al. 2015).",),
        ),
        Rival(
            "center",
            "SM-center loss",
            "CenterLossLayer",
            0.0001,
            lambda classes: dict(num_classes=classes, alpha=0.5),
            (
                "alpha: Wen et al. 2016. Their weight, 0.003, pulls features as long as these into",
                "zero, where the centres start (SqueezeNet on cards: 26 % right instead of 67 %).",
                "The layer moves its centres itself: the solver must not (lr_mult 0).",
            ),
            param=(dict(lr_mult=0, decay_mult=0),),
        ),
        Rival(
            "minmax",
            "SM-min-max",
            "MinMaxLossLayer",
            0.01,
            lambda classes: dict(k1=5, k2=10, normalize=True),
            ("Weight: not tuned; normalize bounds a loss that is otherwise unbounded below.",),
        ),
    ]
}

# The paper's six variants and four comparisons, as stages of one net.
STAGES = {
    "sm": (),
    "sm_glm": ("glm",),
    "csm": ("csm",),
    "csm_glm": ("csm", "glm"),
    "sc_csm": ("csm", "skip"),
    "ours": ("csm", "skip", "glm"),
    **{f"sm_{name}": (name,) for name in RIVALS},
}
TITLES = {
    "sm": "SM (plain softmax)",
    "sm_glm": "SM-GLM",
    "csm": "CSM",
    "csm_glm": "CSM-GLM",
    "sc_csm": "SC-CSM",
    "ours": "OURS",
    **{f"sm_{name}": rival.title for name, rival in RIVALS.items()},
}


def glm_parameters(levels):
    """Parameters of the large-margin loss (python_layers/glm_loss.py) for a tree of so many levels.

    Margins of one are the paper's; normalize is not, but raw features diverge.
    """
    return dict(k=1, margins=[1] * levels, within_gradient="paper", normalize=True)


@dataclass(frozen=True)
class Schedule:
    """Solver values of a fine-tuning run. why: {solver field: reason} where ours does not hold."""

    batch: int
    epochs: float
    base_lr: float = 0.001
    iterations: int = 0  # 0: from epochs
    why: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Net:
    """A backbone, where its feature is, and how its authors trained it."""

    name: str
    title: str
    column: object  # function(NetSpec, fine classes) of backbones.py
    crop: int  # side of the square input
    feature: str  # blob the metric loss looks at
    dropped: str  # the same after dropout, what the head classifies; feature: there is no dropout
    weights: str
    filler: dict  # of the head's weights: the original classifier's; VGG-16 has none: AlexNet's
    weight_decay: float
    origin: str  # of momentum, weight decay and dropout
    policy: tuple  # of the learning rate: rows (field, value or function of max_iter, reason)
    schedule: Schedule
    test_batch: int  # at most; the exact one divides the number of test images
    pooled: bool  # the feature is a C x 1 x 1 map, not a vector
    any_size: bool = False  # of the input
    stored: int = 256  # side of the images that crops are taken from
    transform: dict = field(default_factory=lambda: dict(mean_value=IMAGENET_BGR_MEAN))
    fine_param: list = field(default_factory=lambda: backbones.NEW)  # ParamSpecs of fc8_fine
    notes: dict = field(default_factory=dict)  # {layer: lines above it}
    written_by: str = "tools/make_prototxt.py"

    def layers(self, classes, crop):
        """[LayerParameter] of the backbone, without the inputs that its column reads."""
        spec = NetSpec()
        spec.data = L.Input(shape=dict(dim=[1, 3, crop, crop]))
        spec.label_1 = L.Input(shape=dict(dim=[1, 1, 1, 1]))
        self.column(spec, classes)
        return [layer for layer in spec.to_proto().layer if layer.type != "Input"]


def _step(reason):
    """Rows of the step policy: one step."""
    return (
        ("lr_policy", "step", reason),
        ("gamma", 0.1, None),
        ("stepsize", lambda n: max(1, n * 2 // 3), "one step, after two thirds of the run"),
    )


def _poly(power, reason):
    """Rows of the polynomial policy."""
    return (("lr_policy", "poly", reason), ("power", power, None))


_AUXILIARY = ("Auxiliary classifier of the original, training only, of the fine classes.",)
_BILINEAR = {
    "bilinear": (
        "All pairs of the 512 channels, summed over the positions; signed square root; length 1.",
        "Both networks of [D,D] are VGG-16 and start equal: their gradients are equal too, so that",
        "they stay one network, which is computed once (Lin et al. 2015).",
        "No dropout in the original: classifiers and large-margin loss read the same blob.",
    ),
    "fc8_fine": (
        "From here on new layers: they start random, and learn at 10 times the rate; fc8_fine,",
        "which reads features of length 1 and nothing else, at 1000 times the rate and 1/100 of",
        "the decay: 1 and 0.000005, with which Gao et al. 2016 train such a layer in Caffe. On the",
        "bilinear features of a fixed SqueezeNet (50 species of CUB) it gets 76.4 % right so, and",
        "69.3 % at 10 times. Coarse classifiers read scores too, which are long: for them 10 times",
        "is enough (there, a higher rate for their weights on the feature changed nothing).",
    ),
}

NETS = {
    n.name: n
    for n in [
        Net(
            "alexnet",
            "AlexNet",
            backbones.alexnet,
            227,
            "fc7",
            "drop7",
            "weights/bvlc_alexnet.caffemodel",
            backbones.gaussian(0.01),
            0.0005,
            origin="BVLC AlexNet's solver",
            policy=_step("as BVLC AlexNet's solver"),
            schedule=Schedule(batch=128, epochs=100),
            test_batch=50,
            pooled=False,
        ),
        Net(
            "googlenet",
            "GoogLeNet",
            backbones.googlenet,
            224,
            "pool5/7x7_s1",
            "pool5/drop_7x7_s1",
            "weights/bvlc_googlenet.caffemodel",
            backbones.XAVIER,
            0.0002,
            origin="BVLC GoogLeNet's quick solver",
            policy=_poly(0.5, "as BVLC GoogLeNet's quick solver: down to 0 at max_iter"),
            schedule=Schedule(batch=32, epochs=60),
            test_batch=50,
            pooled=True,
            notes={"loss1/ave_pool": _AUXILIARY, "loss2/ave_pool": _AUXILIARY},
        ),
        Net(
            "vgg16",
            "VGG-16",
            backbones.vgg16,
            224,
            "fc7",
            "drop7",
            "weights/VGG_ILSVRC_16_layers.caffemodel",
            backbones.gaussian(0.01),
            0.0005,
            origin="Simonyan & Zisserman 2015, 3.1",
            policy=_step("tenths, as Simonyan & Zisserman 2015, 3.1"),
            schedule=Schedule(batch=32, epochs=60),
            test_batch=50,
            pooled=False,
        ),
        Net(
            "bcnn",
            "Bilinear CNN [D,D]",
            backbones.bcnn,
            448,
            "bilinear",
            "bilinear",
            "weights/VGG_ILSVRC_16_layers.caffemodel",
            backbones.gaussian(0.0001),  # Gao et al. 2016
            0.0005,
            origin="VGG-16's (Simonyan & Zisserman 2015, 3.1)",
            policy=_step("Gao et al. 2016 lower the classifier's rate in steps"),
            schedule=Schedule(
                batch=16,
                epochs=60,
                why=dict(base_lr="as Lin et al. 2015; new layers take 10 x, fc8_fine 1000 x"),
            ),
            test_batch=16,
            pooled=False,
            stored=512,
            fine_param=backbones.OF_UNIT_LENGTH,
            notes=_BILINEAR,
        ),
        Net(
            "squeezenet",
            "SqueezeNet v1.1",
            backbones.squeezenet,
            227,
            "pool9",
            "drop9",
            "weights/squeezenet_v1.1.caffemodel",
            backbones.gaussian(0.01),
            0.0002,
            origin="SqueezeNet's solver",
            policy=_poly(1.0, "as SqueezeNet's solver: linearly to 0"),
            schedule=Schedule(batch=64, epochs=60),
            test_batch=50,
            pooled=True,
            any_size=True,
        ),
    ]
}

# Schedules of single pairs, where the net's own does not suit.
SCHEDULES = {
    ("cards", "squeezenet"): Schedule(
        batch=32,
        epochs=0,
        iterations=400,
        base_lr=0.0003,
        why=dict(
            base_lr="white cards make long features (squared length 12000): OURS diverges at 0.005",
            max_iter="the demo trains twice on two CPU cores: some 3 minutes each",
        ),
    ),
}

# What is committed: (data set, net), in both settings where the data set has boxes.
GRID = [
    *(
        (dataset, net)
        for dataset in ("cars", "aircraft", "cub")
        for net in ("alexnet", "googlenet", "vgg16", "bcnn")
    ),
    ("cub", "squeezenet"),
    *(("cards", net) for net in ("alexnet", "googlenet", "squeezenet")),
]


def build_commands():
    """{folder: command that makes it} of every data set, network and setting of the tables."""
    read = [
        setting.for_net(net)
        for dataset in DATASETS.values()
        for net in NETS.values()
        for setting in dataset.settings()
    ]
    return {dataset.folder: dataset.command for dataset in read}
