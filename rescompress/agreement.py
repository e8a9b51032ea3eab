"""What tells an artifact from its model beside the logits: layer by layer, class by class, image by image."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Proportion:
    """So many of so many."""

    correct: int
    total: int

    @property
    def percent(self) -> float:
        """The share, in percent; NaN of nothing."""
        return 100 * self.correct / self.total if self.total else float("nan")

    def __bool__(self) -> bool:
        """Whether there was anything to count."""
        return self.total > 0


@dataclass(frozen=True)
class LayerAgreement:
    """How well one layer of an artifact computes what the same layer of its model computes.

    Attributes:
        layer: path of the layer, such as ``layer1.0.conv1``; ``FIRST to LAYER`` where steps before it are unseen.
        seen_at: the value that both sides have: the layer's own, or the first one behind it.
        own_db: SQNR of that value when eager gets the artifact's own inputs of the layer: the layer's own fault, in dB.
        so_far_db: SQNR of that value when eager starts from the images: what all layers so far have added up to.
        least_db: the ``own_db`` below which the layer departs.
    """

    layer: str
    seen_at: str
    own_db: float
    so_far_db: float
    least_db: float

    @property
    def departs(self) -> bool:
        """Whether the layer computes something else; NaN departs too."""
        return not self.own_db >= self.least_db


@dataclass(frozen=True)
class McNemar:
    """Images that one of two models alone gets right.

    Attributes:
        lost: right in the other, wrong in the artifact.
        won: wrong in the other, right in the artifact.
        p: chance of a split at least so unequal if both were equally good (two-sided exact binomial).
    """

    lost: int
    won: int
    p: float


@dataclass(frozen=True)
class ClassDrop:
    """The class whose accuracy falls most.

    Attributes:
        name: of the class.
        points: percentage points that the artifact loses against the baseline or, without one, against eager PyTorch;
            negative where every class gains.
        images: of this class.
    """

    name: str
    points: float
    images: int


@dataclass(frozen=True)
class Evidence:
    """What verification measured and against what, beside the logits' agreement.

    Attributes:
        least_sqnr_db: the threshold that held for the logits, in dB.
        least_agreement: the threshold that held for top-1 agreement, in percent.
        self_noise_db: SQNR of eager's own answers when its values move by a millionth: no artifact can be nearer.
        sizes: numbers of images that were given to the runtime at once.
        against_eager: the artifact against the same model in eager PyTorch; None without labels.
        against_baseline: the artifact against the baseline; None where there is none, or no labels.
        worst_class: None without labels, or where no class has enough images.
        layers: each layer's agreement, in order of execution; empty where nobody looked or the runtime can't show them.
        layers_of: ``file`` (what it says, computed op by op) or ``runtime`` (what it fuses the file to).
        stood_in: why something stood in for the runtime, a sentence; empty where the runtime itself ran.
        notes: what a person should know and what is no failure, a sentence each.
    """

    least_sqnr_db: float = 0.0
    least_agreement: float = 0.0
    self_noise_db: float = math.inf
    sizes: tuple[int, ...] = ()
    against_eager: McNemar | None = None
    against_baseline: McNemar | None = None
    worst_class: ClassDrop | None = None
    layers: tuple[LayerAgreement, ...] = ()
    layers_of: str = ""
    stood_in: str = ""
    notes: tuple[str, ...] = ()
