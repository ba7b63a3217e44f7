"""The options of a build: what build_lmdb.py was asked for, as the manifest records it."""

from dataclasses import dataclass, field

from data_prep.batches import Plan
from data_prep.common import typed
from data_prep.images import ENCODINGS, RESIZES
from data_prep.order import ORDERS


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options that decide what a data set contains.

    shuffled_parents  seed with which label_tree.shuffled made the tree; None: it is the real one
    reader  the reader's own; in the manifest they stand beside the others
    """

    size: int  # width and height of the stored images, pixels
    resize: str
    encoded: str
    context: float = 0.0
    skip_bad: bool = False
    skip_duplicates: bool = False
    order: str = "shuffled"
    seed: int = 0
    batches: Plan | None = None  # of order "hierarchical"
    validation: int | None = None
    shuffled_parents: int | None = None
    scales: tuple[int, ...] = ()  # sides at which training images are stored; (): size alone
    reader: dict = field(default_factory=dict, metadata=typed.REST)

    def __post_init__(self):
        if self.size < 1:
            raise ValueError("size is not a whole number above 0")
        for option, valid in (("encoded", ENCODINGS), ("resize", RESIZES), ("order", ORDERS)):
            if getattr(self, option) not in [*valid]:
                raise ValueError(f"{option} is not {', '.join(valid)}")
        if (self.order == "hierarchical") != (self.batches is not None):
            raise ValueError("batches do not go with the order")
        if self.scales and (
            self.size not in self.scales
            or len(set(self.scales)) < len(self.scales)
            or min(self.scales) < 1
        ):
            raise ValueError("scales are not different whole numbers above 0, size among them")

    @property
    def sides(self):
        """The sides at which training images are stored."""
        return self.scales or (self.size,)
