"""The numbers behind prototxt/: data sets, variants, networks."""

from dataclasses import dataclass, field, replace

from data_prep.color import IMAGENET_BGR_MEAN
from data_prep.common.errors import UserError
from tools.pycaffe import NetSpec, layers as L

from . import backbones, schedules
from .data import Level, Official, stored_for


def _tree(**classes):
    """Levels from {name: number of classes}, fine to coarse."""
    return tuple(Level(name, count) for name, count in classes.items())


DATASETS = {
    d.name: d
    for d in [
        Official(
            name="cars",
            title="Stanford Cars",
            tree=_tree(model=196, body_type=9),
            train=8144,
            test=8041,
            boxes=True,
            command="data_prep/build_lmdb.py cars --root /data/stanford_cars",
        ),
        Official(
            name="aircraft",
            title="FGVC-Aircraft",
            tree=_tree(variant=100, family=70, manufacturer=30),
            train=6667,
            test=3333,
            boxes=True,
            command="data_prep/build_lmdb.py aircraft --root /data/fgvc-aircraft-2013b",
        ),
        Official(
            name="cub",
            title="CUB-200-2011",
            tree=_tree(species=200, family=40, order=13),
            train=5994,
            test=5794,
            boxes=True,
            command="data_prep/build_lmdb.py cub --root /data/CUB_200_2011",
        ),
        # A card fills its image, so a net must see nearly all of it. Networks whose input has a
        # fixed size read a larger build than SqueezeNet, which is the demo's and quick.
        Official(
            name="cards",
            title="playing cards",
            tree=_tree(card=52, suit=4, color=2),
            train=1487,
            test=572,
            command="data_prep/build_lmdb.py cards",
            side=160,
            small_crop=144,
            mirror=False,
        ),
    ]
}

# What a loss can read: the feature, class scores, labels; of the fine level or of all classified.
FEATURE = "feature"
FINE_SCORES, ALL_SCORES = "fine scores", "scores of all levels"
FINE_LABEL, ALL_LABELS = "fine label", "all labels"
ATTRIBUTES = "scores of attributes"  # of the tables that a user gives; none without


@dataclass(frozen=True)
class Labels:
    """The labels of a net.

    sizes      classes of each classified level, fine to coarse
    hierarchy  path of the data set's hierarchy.tsv
    some       names of the classified levels; None: all levels of the tree are
    """

    sizes: tuple
    hierarchy: str
    some: tuple | None = None

    @property
    def tree(self):
        """Parameters of a layer that reads the tree for the scores of all classified levels."""
        return dict(hierarchy=self.hierarchy) | (
            {} if self.some is None else dict(levels=list(self.some))
        )


@dataclass(frozen=True)
class Loss:
    """A loss that a stage adds to the classifiers' softmax losses.

    The stage has its name. The variant of a loss of the feature is sm_<name>. A loss of scores
    takes the place of the softmax losses on them, and its variant has its name.
    """

    name: str
    title: str  # of its variant
    called: str  # in sentences
    source: str  # equations, or publication
    layer: str  # class in python_layers/<name>_loss.py
    reads: tuple  # kinds of bottoms in the layer's order, see FEATURE
    weight: float
    parameters: object  # function(Labels) -> dict, see the layer
    note: object  # function(parameters) -> comment lines about them
    weight_note: tuple = ()  # comment lines about the weight
    weight_option: str | None = None  # of make_prototxt and graft; None: --<name>-weight
    param: tuple = ()  # ParamSpecs of the layer's own blobs
    marginals: str | None = None  # class beside the layer; None: a softmax of the scores gives p
    committed: bool = False  # whether prototxt/ has its solvers: the paper's comparisons

    @property
    def scored(self):
        """Kinds of the scores that it reads."""
        return {FINE_SCORES, ALL_SCORES}.intersection(self.reads)

    def on(self, feature):
        """What it is computed on, in words. feature: blob of the net."""
        return feature if FEATURE in self.reads else f"the {', '.join(self.scored)}"


GLM_SCALE = 2.5  # see WHY_WEIGHTS


def glm_parameters(levels):
    """Parameters of the large-margin loss (python_layers/glm_loss.py) for a number of levels.

    Margins of one are the paper's. normalize is not; tools/studies/head_regime.md has the reason.
    """
    return dict(k=1, margins=[1] * levels, within_gradient="paper", normalize=True, scale=GLM_SCALE)


def _glm_note(parameters):
    length = "normalize: the features as they are; GLM shrinks them to the size of the margins."
    if parameters["normalize"]:
        length = (
            f"normalize: features of length {parameters.get('scale', 1):g} inside the loss; "
            "raw ones act 200 times as strongly."
        )
    within = (
        'within_gradient: Eq. (20) as printed; "exact" is the derivative of Eq. (5).'
        if parameters["within_gradient"] == "paper"
        else "within_gradient: the derivative of Eq. (5), which Eq. (20) as printed is not."
    )
    return (
        "Eqs. (3)-(18); loss_weight is lambda of Eq. (2); one margin per level.",
        within,
        length,
    )


def _note(*lines):
    """The note of a Loss: these lines, and what a `scale` that a user gave means."""

    def note(parameters):
        if "scale" not in parameters:
            return lines
        return *lines, f"scale: features of length {parameters['scale']:g} inside the loss."

    return note


# The paper gives neither weights nor parameters of the losses that it compares with GLM; those of
# the losses' authors act a hundred to a million times less than the classifier, as do unit features
# in GLM. Here weights, and GLM's scale, are such that at the start of training each loss sends a
# gradient into the feature whose norm is 0.3 to 1 of the fine classifier's. Measured with
# tools/flows.py and tests/tools/test_flow_shares.py on: GoogLeNet's features of 50 species of CUB
# (length 47, batch 32), SqueezeNet's of the Cars (105, batch 64), and the embedding of the first.
# Networks whose features were not at hand have the same values; Net.strengths has exceptions.
WHY_WEIGHTS = (
    "Weight: at the start the loss sends 0.3 to 1 of the classifier's gradient into the feature",
    "(measured on GoogLeNet and SqueezeNet).",
)
GLM = "glm"
LOSSES = {
    loss.name: loss
    for loss in [
        Loss(
            GLM,
            title="SM-GLM",
            called="large-margin loss",
            source="Eqs. (2)-(18)",
            layer="GLMLossLayer",
            reads=(FEATURE, ALL_LABELS),
            weight=0.8,  # the paper's choice; with GLM_SCALE it is in the range
            parameters=lambda labels: glm_parameters(len(labels.sizes)),
            note=_glm_note,
            weight_option="--lambda",
            committed=True,
        ),
        Loss(
            "contrastive",
            title="SM-contrastive",
            called="contrastive loss",
            source="Hadsell et al. 2006",
            layer="ContrastiveLossLayer",
            reads=(FEATURE, FINE_LABEL),
            weight=10.0,
            parameters=lambda labels: dict(margin=1, normalize=True, average="kinds"),
            note=_note(
                "All pairs of the batch. average: those of one class are one of 200, and count as",
                "much as the others.",
            ),
            weight_note=WHY_WEIGHTS,
            committed=True,
        ),
        Loss(
            "triplet",
            title="SM-triplet",
            called="triplet loss",
            source="Schroff et al. 2015",
            layer="TripletLossLayer",
            reads=(FEATURE, FINE_LABEL),
            weight=5.0,
            parameters=lambda labels: dict(margin=0.2, mining="semihard", normalize=True),
            note=_note(
                "Margin, mining: FaceNet's (Schroff et al. 2015), for features of length 1."
            ),
            weight_note=WHY_WEIGHTS,
            committed=True,
        ),
        Loss(
            "center",
            title="SM-center loss",
            called="center loss",
            source="Wen et al. 2016",
            layer="CenterLossLayer",
            reads=(FEATURE, FINE_LABEL),
            weight=0.015,
            parameters=lambda labels: dict(num_classes=labels.sizes[0], alpha=0.5),
            note=_note(
                "alpha: Wen et al. 2016.",
                "The layer moves its centers itself: the solver must not (lr_mult 0).",
            ),
            weight_note=(
                *WHY_WEIGHTS,
                "The gradient grows with the feature, which nothing here normalizes: a longer one",
                "needs a lower weight, or shrinks to zero, where the centers start.",
            ),
            param=(dict(lr_mult=0, decay_mult=0),),
            committed=True,
        ),
        Loss(
            "minmax",
            title="SM-min-max",
            called="min-max loss",
            source="Shi et al. 2016",
            layer="MinMaxLossLayer",
            reads=(FEATURE, FINE_LABEL),
            weight=1.0,
            parameters=lambda labels: dict(k1=5, k2=10, normalize=True),
            note=_note("normalize bounds a loss that is otherwise unbounded below."),
            weight_note=WHY_WEIGHTS,
            committed=True,
        ),
        Loss(
            "gtl",
            title="SM-GTL",
            called="generalized triplet loss",
            source="Zhang et al. 2016",
            layer="GTLLossLayer",
            reads=(FEATURE, ALL_LABELS),
            weight=10.0,
            parameters=lambda labels: dict(
                margins=[round(0.2 * left, 3) for left in range(len(labels.sizes), 0, -1)],
                mining="semihard",
                normalize=True,
            ),
            note=_note(
                "margins: fall from the fine level up; their differences are FaceNet's margin.",
                "The authors' objective lambda_s softmax + (1 - lambda_s) E is this one with",
                "loss_weight (1 - lambda_s) / lambda_s at the base_lr times lambda_s.",
            ),
            weight_note=(
                "Weight: at the start it sends 0.4 to 0.85 of the classifier's gradient.",
            ),
            committed=True,
        ),
        Loss(
            "bgl",
            title="BGL",
            called="bipartite-graph label loss",
            source="Zhou & Lin 2016",
            layer="BGLLossLayer",
            reads=(ALL_SCORES, ATTRIBUTES, ALL_LABELS),
            weight=1.0,
            parameters=lambda labels: labels.tree,
            note=_note("One model of the classes of all levels, instead of a softmax of each."),
            marginals="BGLMarginalsLayer",
            committed=True,
        ),
        Loss(
            "hxe",
            title="HXE",
            called="hierarchical cross-entropy",
            source="Bertinetto et al. 2020",
            layer="HXELossLayer",
            reads=(FINE_SCORES, FINE_LABEL),
            weight=1.0,
            parameters=lambda labels: dict(hierarchy=labels.hierarchy, alpha=0.1),
            note=_note("alpha: of the authors' 0.1 to 0.6 the nearest to the cross-entropy, 0."),
        ),
        Loss(
            "soft_label",
            title="Soft labels",
            called="cross-entropy with soft labels",
            source="Bertinetto et al. 2020",
            layer="SoftLabelLossLayer",
            reads=(FINE_SCORES, FINE_LABEL),
            weight=1.0,
            parameters=lambda labels: dict(hierarchy=labels.hierarchy, beta=10.0),
            note=_note("beta: of the authors' 4 to 30; the larger, the harder the labels."),
        ),
        Loss(
            "conditional_softmax",
            title="Conditional softmax",
            called="conditional softmax",
            source="Redmon & Farhadi 2017",
            layer="ConditionalSoftmaxLossLayer",
            reads=(ALL_SCORES, FINE_LABEL),
            weight=1.0,
            parameters=lambda labels: labels.tree,
            note=_note("A softmax among the children of each node; the product along the path."),
            marginals="ConditionalMarginalsLayer",
        ),
    ]
}


def alone(loss):
    """(name, stages) of the variant that adds a Loss to the fewest classifiers that it can read.

    Models of all scores at once have a classifier of the feature for each level, as their authors'.
    """
    if FEATURE in loss.reads:
        return f"sm_{loss.name}", (loss.name,)
    return loss.name, (("csm", "flat") if ALL_SCORES in loss.reads else ()) + (loss.name,)


# The paper's six variants, the losses that it compares GLM with, and others, as stages of one net.
STAGES = {
    "sm": (),
    "sm_glm": (GLM,),
    "csm": ("csm",),
    "csm_glm": ("csm", GLM),
    "sc_csm": ("csm", "skip"),
    "ours": ("csm", "skip", GLM),
}
TITLES = {
    "sm": "SM (plain softmax)",
    "sm_glm": "SM-GLM",
    "csm": "CSM",
    "csm_glm": "CSM-GLM",
    "sc_csm": "SC-CSM",
    "ours": "OURS",
}
for _loss in LOSSES.values():
    _variant, _stages = alone(_loss)
    STAGES[_variant] = _stages
    TITLES[_variant] = _loss.title
STAGES["fgon"] = ("csm", "fgon")
TITLES["fgon"] = "FGoN"


def short_title(variant):
    """The title of a variant without what it has in brackets, for tables and figures."""
    return TITLES[variant].partition(" (")[0]


def has_softmax(variant):
    """Whether a variant trains its classifiers with softmax losses, not with losses of scores."""
    return not any(LOSSES[stage].scored for stage in STAGES[variant] if stage in LOSSES)


# Variants with solvers in prototxt/: the paper's own, and those of its tables and Section II.
COMMITTED = tuple(
    variant
    for variant, stages in STAGES.items()
    if variant != "fgon" and all(LOSSES[stage].committed for stage in stages if stage in LOSSES)
)


@dataclass(frozen=True)
class Strength:
    """The weight and scale of a loss with one network, instead of the row's; None: the row's.

    note: comment lines: why.
    """

    note: tuple
    weight: float | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Preset:
    """Values of the method that options can change one by one.

    glm         parameters of the large-margin loss, instead of glm_parameters
    skip_input  what coarse classifiers read of the finer ones, as head.add_head
    title       in a few words
    """

    glm: dict
    skip_input: str
    title: str


RECOMMENDED, PAPER = "recommended", "paper"
PRESETS = {
    RECOMMENDED: Preset({}, "scores", "as measured here"),
    # Raw fc7, Eq. (20) as printed, margins of one; "the predicted probability scores p(c1|x)".
    PAPER: Preset(
        dict(normalize=False, scale=1.0, within_gradient="paper"),
        "probabilities",
        "the paper to the letter",
    ),
}


@dataclass(frozen=True)
class Schedule:
    """The training schedule of a net: images per iteration, epochs, learning rate.

    why: {solver field: reason}, which replaces the reason that solver.py gives.
    """

    batch: int
    epochs: float
    base_lr: float = 0.001
    why: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Net:
    """A backbone, where its feature is, and how its authors trained it."""

    name: str
    title: str
    crop: int  # side of the square input
    feature: str  # blob the metric loss looks at
    dropped: str  # the same after dropout, read by the head; the feature if the net has no dropout
    weights: str  # caffemodel that the training starts from; "": all layers start random
    filler: dict  # of the head's weights: the original classifier's; VGG-16 has none: AlexNet's
    weight_decay: float
    origin: str  # of momentum, weight decay and dropout
    policy: tuple  # of the learning rate: rows as in schedules.py
    schedule: Schedule
    test_batch: int  # images per test batch, at most; solver.test_batch chooses
    pooled: bool  # the feature is a C x 1 x 1 map, not a vector
    any_size: bool = False  # of the input
    smallest: int | None = None  # side of the input that --crop can ask for; None: crop alone
    reads_features: bool = False  # of tools/cache_features.py, instead of images
    stored: int = 256  # side of the images that crops are taken from
    transform: dict = field(default_factory=lambda: dict(mean_value=IMAGENET_BGR_MEAN))
    fine_param: list = field(default_factory=lambda: backbones.NEW)  # ParamSpecs of fc8_fine
    notes: dict = field(default_factory=dict)  # {layer: lines above it}
    strengths: dict = field(default_factory=dict)  # {loss: Strength}

    @property
    def start(self):
        """The words of `caffe train` for the weights."""
        return f" -weights {self.weights}" if self.weights else ""

    def reading(self, crop):
        """This Net with another side of its input. UserError where it can't be."""
        if self.smallest is None:
            others = [name for name, net in NETS.items() if net.smallest]
            raise UserError(
                f"--crop {crop}: {self.title} reads inputs of {self.crop} x {self.crop} only; "
                f"{', '.join(others)} read others"
            )
        if crop < self.smallest:
            raise UserError(f"--crop {crop}: {self.title} needs at least {self.smallest} pixels")
        if crop == self.crop:
            return self
        return replace(self, crop=crop, stored=stored_for(crop), any_size=False)

    def layers(self, classes, crop):
        """[LayerParameter] of the backbone for a number of fine classes and a side of the input."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ZooNet(Net):
    """A network of the model zoo. backbone: function(NetSpec, fine classes, side of the input) of
    backbones.py. width: values of its feature."""

    backbone: object
    width: int

    def layers(self, classes, crop):
        spec = NetSpec()
        spec.data = L.Input(shape=dict(dim=[1, 3, crop, crop]))
        spec.label_1 = L.Input(shape=dict(dim=[1, 1, 1, 1]))
        self.backbone(spec, classes, crop)
        return [layer for layer in spec.to_proto().layer if layer.type != "Input"]


_AUXILIARY = ("Auxiliary classifier of the original, training only, of the fine classes.",)
_POOLED = (
    "All pairs of the 512 channels, summed over the positions; signed square root; length 1.",
)
_BILINEAR = {
    "bilinear": (
        *_POOLED,
        "Both networks of [D,D] are VGG-16 with the same weights at the start. Here they are one,",
        "computed once. Its gradient is the sum of both, so that it learns at half the rate.",
        "Two networks stay equal only under a classifier that is symmetric in them, which a random",
        "one is not: --net bcnn2 has two.",
        "The original has no dropout: classifiers and large-margin loss read the same blob.",
    ),
    "fc8_fine": (
        "New layers from here on: they start random, and learn at 10 times the rate. fc8_fine",
        "reads features of length 1 only, and learns at 1000 times the rate with 1/100 of the",
        "decay: 1 and 0.000005, as Gao et al. 2016 train such a layer in Caffe. On the bilinear",
        "features of a fixed SqueezeNet (50 species of CUB) its accuracy is 76.4 %, with 10 times",
        "the rate 69.3 %. Coarse classifiers also read scores, which are long: 10 times is enough",
        "for them (a higher rate for their weights on the feature changed nothing there).",
    ),
}

_TWO_STREAMS = (
    *_POOLED,
    "The two networks start with the same weights, and part at the first step, because a random",
    "classifier is not symmetric in them (Lin et al. 2015 start equal, too).",
    "No dropout in the original: classifiers and large-margin loss read the same blob.",
)


def _reasoned(text):
    """{loss: Strength} of the Bilinear CNN.

    The feature has length 1, instead of GoogLeNet's 47, and the classifier starts with vectors of
    length 0.05, instead of 1: beside it, losses of normalized features act 1200 times as strongly.
    """
    values = dict(contrastive=0.01, triplet=0.005, center=0.03, minmax=0.001)
    return {
        GLM: Strength((), scale=0.1),
        **{name: Strength((text,), weight=weight) for name, weight in values.items()},
    }


_SHORT = (
    "Weight: computed from GoogLeNet's and the lengths of feature and classifier, not measured."
)

NETS = {
    n.name: n
    for n in [
        ZooNet(
            "alexnet",
            "AlexNet",
            227,
            "fc7",
            "drop7",
            "weights/bvlc_alexnet.caffemodel",
            backbones.gaussian(0.01),
            0.0005,
            backbone=backbones.alexnet,
            width=4096,
            origin="BVLC AlexNet's solver",
            policy=schedules.step("as BVLC AlexNet's solver"),
            schedule=Schedule(batch=128, epochs=100),
            test_batch=50,
            pooled=False,
        ),
        ZooNet(
            "googlenet",
            "GoogLeNet",
            224,
            "pool5/7x7_s1",
            "pool5/drop_7x7_s1",
            "weights/bvlc_googlenet.caffemodel",
            backbones.XAVIER,
            0.0002,
            backbone=backbones.googlenet,
            width=1024,
            origin="BVLC GoogLeNet's quick solver",
            policy=schedules.poly(0.5, "as BVLC GoogLeNet's quick solver: down to 0 at max_iter"),
            schedule=Schedule(
                batch=32,
                epochs=60,
                why=dict(
                    base_lr="best of 0.0003 to 0.01 for SM on validation images of CUB: "
                    "tools/studies/cub50_googlenet.toml"
                ),
            ),
            test_batch=50,
            pooled=True,
            smallest=64,
            notes={"loss1/ave_pool": _AUXILIARY, "loss2/ave_pool": _AUXILIARY},
        ),
        ZooNet(
            "vgg16",
            "VGG-16",
            224,
            "fc7",
            "drop7",
            "weights/VGG_ILSVRC_16_layers.caffemodel",
            backbones.gaussian(0.01),
            0.0005,
            backbone=backbones.vgg16,
            width=4096,
            origin="Simonyan & Zisserman 2015, 3.1",
            policy=schedules.step("tenths, as Simonyan & Zisserman 2015, 3.1"),
            schedule=Schedule(batch=32, epochs=60),
            test_batch=50,
            pooled=False,
        ),
        ZooNet(
            "bcnn",
            "Bilinear CNN [D,D]",
            448,
            "bilinear",
            "bilinear",
            "weights/VGG_ILSVRC_16_layers.caffemodel",
            backbones.gaussian(0.0001),  # Gao et al. 2016
            0.0005,
            backbone=backbones.bcnn,
            width=512**2,
            origin="VGG-16's (Simonyan & Zisserman 2015, 3.1)",
            policy=schedules.step("Gao et al. 2016 lower the classifier's rate in steps"),
            schedule=Schedule(
                batch=16,
                epochs=60,
                why=dict(
                    base_lr="as Lin et al. 2015; new layers take 10 x, fc8_fine 1000 x, others 1/2"
                ),
            ),
            test_batch=16,
            pooled=False,
            stored=512,
            smallest=64,
            fine_param=backbones.OF_UNIT_LENGTH,
            strengths=_reasoned(_SHORT),
            notes=_BILINEAR,
        ),
        ZooNet(
            "vgg19",
            "VGG-19",
            224,
            "fc7",
            "drop7",
            "weights/VGG_ILSVRC_19_layers.caffemodel",
            backbones.gaussian(0.01),
            0.0005,
            backbone=backbones.vgg19,
            width=4096,
            origin="Simonyan & Zisserman 2015, 3.1",
            policy=schedules.step("tenths, as Simonyan & Zisserman 2015, 3.1"),
            schedule=Schedule(batch=32, epochs=60),
            test_batch=50,
            pooled=False,
        ),
        ZooNet(
            "bcnn2",
            "Bilinear CNN [D,D] of two networks",
            448,
            "bilinear",
            "bilinear",
            "weights/VGG_ILSVRC_16_two_streams.caffemodel",
            backbones.gaussian(0.0001),  # Gao et al. 2016
            0.0005,
            backbone=backbones.bcnn2,
            width=512**2,
            origin="VGG-16's (Simonyan & Zisserman 2015, 3.1)",
            policy=schedules.step("Gao et al. 2016 lower the classifier's rate in steps"),
            schedule=Schedule(
                batch=16,
                epochs=60,
                why=dict(base_lr="as Lin et al. 2015; new layers take 10 x, fc8_fine 1000 x"),
            ),
            test_batch=16,
            pooled=False,
            stored=512,
            smallest=64,
            fine_param=backbones.OF_UNIT_LENGTH,
            strengths=_reasoned(_SHORT),
            notes={**_BILINEAR, "bilinear": _TWO_STREAMS},
        ),
        ZooNet(
            "squeezenet",
            "SqueezeNet v1.1",
            227,
            "pool9",
            "drop9",
            "weights/squeezenet_v1.1.caffemodel",
            backbones.gaussian(0.01),
            0.0002,
            backbone=backbones.squeezenet,
            width=512,
            origin="SqueezeNet's solver",
            policy=schedules.poly(1.0, "as SqueezeNet's solver: linearly to 0"),
            schedule=Schedule(
                batch=64,
                epochs=60,
                base_lr=0.0003,
                why=dict(
                    base_lr="features of length 105 (Cars): at 0.001 the new classifier, 10 x, "
                    "overshoots: its loss is 13 after an epoch, here 5"
                ),
            ),
            test_batch=50,
            pooled=True,
            any_size=True,
            smallest=64,
            strengths=dict(
                center=Strength(
                    (
                        "Weight: as GoogLeNet's, for features of length 105 instead of 47, and a",
                        "classifier that starts at gaussian 0.01.",
                    ),
                    weight=0.002,
                ),
            ),
        ),
        ZooNet(
            "embedding",
            "an embedding of stored features",
            1,
            "fc7",
            "drop7",
            "",
            backbones.XAVIER,
            0.0005,
            backbone=backbones.embedding,
            width=1024,
            origin="AlexNet's, whose fc7 the embedding stands for",
            policy=schedules.step("as BVLC AlexNet's solver"),
            schedule=Schedule(
                batch=64,
                epochs=8,
                why=dict(base_lr="chosen on validation images: tools/studies/head_regime.md"),
            ),
            test_batch=50,
            pooled=False,
            reads_features=True,
            transform={},
            strengths=dict(
                center=Strength(
                    ("Weight: as GoogLeNet's, for features of length 24.",), weight=0.02
                ),
            ),
        ),
    ]
}

# Learning-rate policies that a user can choose instead of the network's.
POLICIES = {
    "step": schedules.step("--schedule"),
    "poly": schedules.poly(1.0, "--schedule: down to 0 at max_iter, linearly"),
    "cosine": schedules.cosine(),
}

# Schedules of single pairs (data set, net), instead of the net's own.
SCHEDULES = {
    ("cards", "squeezenet"): Schedule(
        batch=32,
        epochs=8.6,
        why=dict(
            base_lr="best of 0.0003 to 0.002 for SM on validation images: "
            "tools/studies/demo_cards.toml",
            max_iter="the demo trains twice on two CPU cores: some 3 minutes each",
        ),
    ),
}

# Strengths of losses in single pairs (data set, net), instead of the net's own.
_OF_CARDS = (
    "Weight: the better of two on validation images: tools/studies/demo_cards.toml. With the",
    "larger one a training at this learning rate stays at chance or ends lower.",
)
STRENGTHS = {
    ("cards", "squeezenet"): {
        GLM: Strength(_OF_CARDS, weight=0.2),
        "contrastive": Strength(_OF_CARDS, weight=3),
        "center": Strength(_OF_CARDS, weight=0.0006),
        "minmax": Strength(_OF_CARDS, weight=0.1),
    },
}

# Pairs (data set, net) of prototxt/, each in all settings of the data set.
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
    """{folder: command that builds it} of every data set, network and setting of the tables."""
    return {
        setting.folder: setting.command
        for dataset in DATASETS.values()
        for net in NETS.values()
        if not net.reads_features
        for setting in dataset.settings(net)
    }
