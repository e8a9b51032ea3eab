"""The teacher: another network of the same task, shown what the student is shown and never trained."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rescompress import artifact, checkpoint, data, fakequant, graph, models, processes, progress
from rescompress.context import Context, fit_data
from rescompress.distillation.answers import Answer
from rescompress.distillation.taps import Tap, reading
from rescompress.edits import edits
from rescompress.errors import InputRefused, RecipeError
from rescompress.spec import ModelSpec, Preprocessing

LOGITS = "logits"


@dataclass(frozen=True)
class Teacher:
    """A frozen network and how the student's images look to it.

    Attributes:
        model: a copy of its own, on the training's device.
        images: how the student's images are normalized.
    """

    model: nn.Module
    images: Preprocessing

    @torch.no_grad()
    def answer(self, images: Float[Tensor, "b 3 h w"], taps: Sequence[Tap] = ()) -> Answer:
        """What it makes of images that are normalized for the student, in eval mode.

        Args:
            images: the very images that the student sees (Beyer et al. 2021, arXiv:2106.05237), so also its crop.
            taps: which features to read.
        """
        own = models.spec_of(self.model).preprocessing
        if (own.mean, own.std) != (self.images.mean, self.images.std):
            pixels = images * _channels(self.images.std, images) + _channels(self.images.mean, images)
            images = (pixels - _channels(own.mean, images)) / _channels(own.std, images)
        with graph.evaluating(self.model):
            return answer_of(self.model, images, taps, models.spec_of(self.model))

    def train_logits(self, ctx: Context, batch: int) -> Float[Tensor, "n k"]:
        """Its logits for the whole train split, on the CPU; kept in the scratch folder where there is one.

        Args:
            ctx: where images and scratch folder come from.
            batch: images at a time.
        """
        opened, folder = ctx.images("distill"), ctx.scratch
        file = folder / f"teacher-{self._key(opened.fingerprint)}.safetensors" if folder else None
        kept = _read(file, len(opened.train)) if file else None
        if kept is not None:
            return kept
        device = next(self.model.parameters()).device
        source = data.batches(opened.train, self.images, batch)
        steps = -(-len(opened.train) // batch)
        answers = (self.answer(images.to(device)) for images, _ in progress.track(source, "teach", steps))
        made = torch.cat([answer.logits.cpu() for answer in answers])
        if file and processes.is_main():
            with artifact.writing(file) as temporary:
                save_file({LOGITS: made}, temporary)
        return made

    def _key(self, fingerprint: str) -> str:
        """Digest of all that its logits depend on."""
        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        parts = [asdict(each) for each in (models.spec_of(self.model), self.images)]
        cut = [*map(asdict, edits(self.model)), *map(asdict, fakequant.sites_of(self.model))]
        return artifact.digest([digest.hexdigest(), *parts, cut, fingerprint])[:32]


def find(path: Path | None, ctx: Context, spec: ModelSpec) -> Teacher:
    """Load the teacher and see that it fits.

    Args:
        path: its checkpoint; none means the untouched model.
        ctx: where the untouched model and the images come from.
        spec: the student's.

    Raises:
        RecipeError: there is no teacher.
        InputRefused: the teacher tells other classes apart, or gives back something else than the student.
    """
    model = checkpoint.load(path) if path else ctx.reference
    if model is None:
        raise RecipeError("distill has no teacher.", "Give one with teacher:, or a context with a reference model.")
    own = models.spec_of(model)
    if own.output != spec.output:
        raise InputRefused(
            f"The teacher gives back {own.output}, and the student {spec.output}.", "Take a teacher of the same task."
        )
    if own.output == "logits" and own.classes != spec.classes:
        raise InputRefused(
            f"The teacher tells {own.classes} classes apart, but the student {spec.classes}.",
            "Take a teacher with the same classes, or train one for them.",
        )
    fit_data(ctx.images("distill"), own)
    guide = graph.clone(model).to(ctx.device).requires_grad_(False)
    guide.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a fifth faster on CPUs
    return Teacher(guide, spec.preprocessing)


def answer_of(model: nn.Module, images: Float[Tensor, "b 3 h w"], taps: Sequence[Tap], spec: ModelSpec) -> Answer:
    """One forward of a network as single-precision outputs and features."""
    with reading(model, taps) as features:
        made = model(images)
    outputs = [made] if isinstance(made, Tensor) else made
    return Answer(tuple(each.float() for each in outputs), tuple(each.float() for each in features), spec.output)


def comparable(student: nn.Module, teacher: Teacher) -> bool:
    """Whether the maps of both have the same channels.

    Raises:
        InputRefused: they differ in number or resolution.
    """
    spec, device = models.spec_of(student), next(student.parameters()).device
    image = torch.zeros(1, *spec.input_shape)
    with torch.no_grad(), graph.evaluating(student):
        mine = answer_of(student, image.to(device), (), spec)
    theirs = teacher.answer(image.to(next(teacher.model.parameters()).device))
    shapes = [[tuple(each.shape[1:]) for each in answer.outputs] for answer in (mine, theirs)]
    if [shape[1:] for shape in shapes[0]] != [shape[1:] for shape in shapes[1]]:
        said = [", ".join(" x ".join(map(str, shape)) for shape in each) for each in shapes]
        raise InputRefused(
            f"The student's maps are {said[0]}, but the teacher's {said[1]}.", "Take a teacher of the same resolution."
        )
    return shapes[0] == shapes[1]


def _channels(values: Sequence[float], like: Tensor) -> Float[Tensor, "3 1 1"]:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)


def _read(file: Path, count: int) -> Float[Tensor, "n k"] | None:
    """The logits in a file; None where it is missing or broken, for they can be made again."""
    try:
        with safe_open(file, "pt") as opened:
            kept: Tensor = opened.get_tensor(LOGITS)
    except (OSError, SafetensorError):
        return None
    return kept if kept.dim() == 2 and len(kept) == count else None
