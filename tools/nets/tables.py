"""The numbers behind prototxt/: data sets, variants, networks."""

from dataclasses import dataclass, field, replace

from . import backbones


@dataclass(frozen=True)
class Dataset:
    """A data set as `caffe train` sees it. Levels run from fine to coarse; counts are images."""
    name: str
    title: str
    levels: tuple
    sizes: tuple  # classes per level
    train: int
    test: int
    build: str  # the command that makes its LMDBs
    folder: str = ""  # of the LMDBs; empty: data/<name>
    mirror: bool = True  # is the mirror image of an image of this class one too?
    crop: int = 0  # side of the network's input; 0: the network's own
    small: dict = field(default_factory=dict)  # what differs for networks that take any input size

    def for_net(self, net):
        """This data set as the given Net reads it."""
        changes = dict(self.small) if net.any_size else {}
        return replace(self, small={}, **{"folder": self.folder or f"data/{self.name}", **changes})


DATASETS = {d.name: d for d in [
    Dataset("cub", "CUB-200-2011", ("species", "family", "order"), (200, 40, 13), 5994, 5794,
            build="data_prep/build_lmdb.py cub --root /data/CUB_200_2011"),
    Dataset("cars", "Stanford Cars", ("model", "body_type"), (196, 9), 8144, 8041,
            build="data_prep/build_lmdb.py cars --root /data/stanford_cars"),
    # A card fills its image, so a net must see nearly all of it: AlexNet and GoogLeNet, whose input
    # has a fixed size, read a larger build than SqueezeNet, which is the demo's and quick.
    Dataset("cards", "playing cards", ("card", "suit", "colour"), (52, 4, 2), 1487, 572,
            build="data_prep/build_lmdb.py cards --size 256 --out data/cards_256",
            folder="data/cards_256", mirror=False,
            small=dict(build="data_prep/build_lmdb.py cards", folder="data/cards", crop=144)),
]}

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


RIVALS = {r.name: r for r in [
    Rival("contrastive", "SM-contrastive", "ContrastiveLossLayer", 0.05,
          lambda classes: dict(margin=1, normalize=True),
          ("All pairs of the batch. Weight: DeepID2's (Sun et al. 2014).",)),
    Rival("triplet", "SM-triplet", "TripletLossLayer", 1.0,
          lambda classes: dict(margin=0.2, mining="semihard", normalize=True),
          ("Margin, mining and features of length 1: FaceNet's (Schroff et al. 2015).",)),
    Rival("center", "SM-center loss", "CenterLossLayer", 0.0001,
          lambda classes: dict(num_classes=classes, alpha=0.5),
          ("alpha: Wen et al. 2016. Their weight, 0.003, pulls features as long as these into zero,",
           "where the centres start (SqueezeNet on cards: 26 % of cards right instead of 67 %).",
           "The layer moves its centres itself: the solver must not (lr_mult 0)."),
          param=(dict(lr_mult=0, decay_mult=0),)),
    Rival("minmax", "SM-min-max", "MinMaxLossLayer", 0.01,
          lambda classes: dict(k1=5, k2=10, normalize=True),
          ("Weight: not tuned; normalize bounds a loss that is otherwise unbounded below.",)),
]}

# The paper's six variants and four comparisons, as stages of one net.
STAGES = {"sm": (), "sm_glm": ("glm",), "csm": ("csm",), "csm_glm": ("csm", "glm"),
          "sc_csm": ("csm", "skip"), "ours": ("csm", "skip", "glm"),
          **{f"sm_{name}": (name,) for name in RIVALS}}
TITLES = {"sm": "SM (plain softmax)", "sm_glm": "SM-GLM", "csm": "CSM", "csm_glm": "CSM-GLM",
          "sc_csm": "SC-CSM", "ours": "OURS",
          **{f"sm_{name}": rival.title for name, rival in RIVALS.items()}}


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
    dropped: str  # the same after dropout, what the head classifies
    weights: str
    filler: dict  # of the head's weights, as the original's classifier
    weight_decay: float
    policy: tuple  # of the learning rate: rows (field, value or function of max_iter, reason)
    schedule: Schedule
    test_batch: int  # at most; the exact one divides the number of test images
    pooled: bool  # the feature is a C x 1 x 1 map, not a vector
    any_size: bool = False


NETS = {n.name: n for n in [
    Net("alexnet", "AlexNet", backbones.alexnet, 227, "fc7", "drop7",
        "weights/bvlc_alexnet.caffemodel", backbones.gaussian(0.01), 0.0005,
        policy=(("lr_policy", "step", "as in BVLC AlexNet's own solver"),
                ("gamma", 0.1, None),
                ("stepsize", lambda n: n * 2 // 3, "one step, after two thirds of the run")),
        schedule=Schedule(batch=128, epochs=100), test_batch=50, pooled=False),
    Net("googlenet", "GoogLeNet", backbones.googlenet, 224, "pool5/7x7_s1", "pool5/drop_7x7_s1",
        "weights/bvlc_googlenet.caffemodel", backbones.XAVIER, 0.0002,
        policy=(("lr_policy", "poly", "as in BVLC GoogLeNet's quick solver: down to 0 at max_iter"),
                ("power", 0.5, None)),
        schedule=Schedule(batch=32, epochs=60), test_batch=50, pooled=True),
    Net("squeezenet", "SqueezeNet v1.1", backbones.squeezenet, 227, "pool9", "drop9",
        "weights/squeezenet_v1.1.caffemodel", backbones.gaussian(0.01), 0.0002,
        policy=(("lr_policy", "poly", "as in SqueezeNet's own solver: linearly to 0 at max_iter"),
                ("power", 1.0, None)),
        schedule=Schedule(batch=64, epochs=60), test_batch=50, pooled=True, any_size=True),
]}

# Schedules of single pairs, where the net's own does not suit.
SCHEDULES = {
    ("cards", "squeezenet"): Schedule(batch=32, epochs=0, iterations=400, base_lr=0.0003, why=dict(
        base_lr="white cards make long features (squared length 12000): OURS diverges at 0.005",
        max_iter="the demo trains twice on two CPU cores: some 3 minutes each")),
}

# What is committed: (data set, net).
GRID = [("cub", "alexnet"), ("cub", "googlenet"), ("cub", "squeezenet"),
        ("cards", "alexnet"), ("cards", "googlenet"), ("cards", "squeezenet"),
        ("cars", "alexnet")]
