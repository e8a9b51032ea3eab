"""What calibration saw of each value, and its file: histograms and per-channel extremes, never the activations."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from rescompress import artifact, models
from rescompress.data import Data
from rescompress.errors import InputRefused
from rescompress.quantization.histogram import BINS, Histogram

FORMAT = "rescompress.statistics/1"
KEY = "rescompress"
AGAIN = "Run 'rescompress calibrate' again, into another file."
LARGE, EVERY = 1 << 16, 4
"""Of maps with more values an image, every fourth row is counted, which of them turns from image to image."""


@dataclass(frozen=True)
class Origin:
    """What statistics belong to: activations of one network on some images.

    Attributes:
        network: digest of every weight, after folding, and of the images' preprocessing.
        data: digest of the data source's images and splits.
    """

    network: str = ""
    data: str = ""


@dataclass
class Statistics:
    """What each watched value was like on the calibration images; its size depends on the network alone.

    Attributes:
        histograms: of each value by its stable name.
        channels: smallest and largest value of each channel (axis 1), by the value's name.
        images: how many images were seen.
        wanted: how many were to be seen; fewer were if calibration was interrupted.
        origin: what network and images these are.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    channels: dict[str, Float[Tensor, "c 2"]] = field(default_factory=dict)
    images: int = 0
    wanted: int = 0
    origin: Origin = Origin()

    def update(self, name: str, x: Float[Tensor, "n c ..."], first: int | None = None) -> None:
        """Take in what a value is for more images.

        Args:
            name: the value's stable name.
            x: the value.
            first: the place of the first image among all of them; None puts them behind those that were seen.

        Raises:
            ValueError: there are NaN or infinite values.
        """
        rows = x.detach().flatten(2) if x.dim() > 2 else x.detach().unsqueeze(2)
        low, high = rows.amin(2), rows.amax(2)
        extremes = torch.stack([low.amin(0), high.amax(0)], 1)
        histogram = self.histograms.setdefault(name, Histogram())
        for counted in _counted(x, low, high, self.images if first is None else first):
            histogram.update(counted)
        known = self.channels.get(name, extremes)
        lows, highs = torch.minimum(known[:, 0], extremes[:, 0]), torch.maximum(known[:, 1], extremes[:, 1])
        self.channels[name] = torch.stack([lows, highs], 1)

    def histogram(self, name: str) -> Histogram:
        """The histogram of one value.

        Raises:
            InputRefused: the value wasn't watched.
        """
        if name not in self.histograms:
            raise InputRefused(f"The calibration says nothing of {name}.", AGAIN)
        return self.histograms[name]

    def save(self, path: Path | str) -> None:
        """Write everything atomically as one ``.safetensors``; equal statistics give equal bytes.

        Raises:
            InputRefused: the place can't be written.
            ResourceExhausted: the disk is full.
        """
        tensors: dict[str, Tensor] = {}
        for name, histogram in self.histograms.items():
            tensors[f"counts/{name}"] = histogram.counts
            tensors[f"extremes/{name}"] = torch.tensor([histogram.low, histogram.high], dtype=torch.float64)
            tensors[f"channels/{name}"] = self.channels[name].contiguous()
        said = {"format": FORMAT, "images": self.images, "wanted": self.wanted, "origin": asdict(self.origin)}
        artifact.write_bytes(Path(path), serialize(tensors, {KEY: json.dumps(said, sort_keys=True)}))


def load(path: Path | str, origin: Origin | None = None, *, partly: bool = False) -> Statistics:
    """Read a file of statistics; nothing in it is ever unpickled.

    Args:
        path: what ``calibrate`` wrote.
        origin: the network and the images that they must be of; None takes any.
        partly: whether an interrupted calibration will do.

    Raises:
        InputRefused: the file is missing, damaged, unfinished, or of another network or other images.
    """
    file = Path(path)
    if not file.is_file():
        raise InputRefused(f"There is no file {file}.", "Make it with 'rescompress calibrate'.")
    try:
        made = _read(file)
    except (SafetensorError, ValidationError, KeyError, ValueError, TypeError, OSError) as error:
        raise InputRefused(f"{file} holds no statistics of a calibration: {_first_line(error)}.", AGAIN) from None
    if origin is not None:
        check_origin(file, made, origin)
    if made.images < made.wanted and not partly:
        raise InputRefused(
            f"The calibration in {file} was interrupted after {made.images} of {made.wanted} images.",
            "Run the same 'rescompress calibrate' again: it goes on from there.",
        )
    return made


def check_origin(file: Path, made: Statistics, origin: Origin) -> None:
    """Refuse statistics that belong to something else.

    Raises:
        InputRefused: they do.
    """
    if made.origin.network != origin.network:
        raise InputRefused(f"{file} was calibrated on another network, or with other weights.", AGAIN)
    if made.origin.data != origin.data:
        raise InputRefused(f"{file} was calibrated on other images.", f"Give the same --data. {AGAIN}")


def origin_of(model: nn.Module, data: Data) -> Origin:
    """Digests of a network's weights and of its images; a captured network has the digest of its module.

    Args:
        model: carries its spec; BatchNorms folded.
        data: whose calibration split is shown.
    """
    spec = models.spec_of(model)
    whole = hashlib.sha256(artifact.digest(asdict(spec.preprocessing)).encode())
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.detach().cpu().contiguous().numpy().data)
    return Origin(whole.hexdigest(), artifact.digest([data.source, data.fingerprint, len(data.calibration)]))


def _counted(
    x: Float[Tensor, "n c ..."], low: Float[Tensor, "n c"], high: Float[Tensor, "n c"], first: int
) -> Iterator[Float[Tensor, "..."]]:
    """All values, or of large maps each image's extremes and a quarter of its rows; batches change nothing."""
    if x.dim() < 4 or x[0].numel() <= LARGE or x.shape[2] < EVERY:
        yield x
        return
    yield torch.stack([low.amin(1), high.amax(1)])
    for place, image in enumerate(x, first):
        lines = image.transpose(0, 1)[-place % EVERY :: EVERY]
        # In the order of memory, which counts don't depend on; against it, the copy takes five times as long.
        yield (lines.transpose(1, 2) if image.stride(0) == 1 else lines).contiguous()


class _Said(BaseModel):
    """A file's metadata."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: str
    images: int = Field(ge=0)
    wanted: int = Field(ge=0)
    origin: dict[str, str]


def _read(file: Path) -> Statistics:
    with safe_open(file, "pt") as opened:
        metadata = (opened.metadata() or {}).get(KEY)
        if metadata is None:
            raise ValueError("it is another kind of file")
        said = _Said.model_validate_json(metadata)
        if said.format != FORMAT:
            raise ValueError(f"its format is {said.format[:60]!r}, not {FORMAT!r}")
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    made = Statistics(images=said.images, wanted=said.wanted, origin=Origin(**said.origin))
    for name in [key.partition("/")[2] for key in tensors if key.startswith("counts/")]:
        made.histograms[name] = _histogram(tensors.pop(f"counts/{name}"), tensors.pop(f"extremes/{name}"))
        made.channels[name] = _channels(tensors.pop(f"channels/{name}"), made.histograms[name])
    if tensors or not made.histograms:
        raise ValueError("it has tensors that don't belong together")
    return made


def _histogram(counts: Tensor, extremes: Tensor) -> Histogram:
    if (counts.dtype, extremes.dtype) != (torch.int64, torch.float64) or counts.shape != (BINS,) or extremes.dim() != 1:
        raise ValueError("it has tensors of the wrong kind")
    low, high = extremes.tolist()
    return Histogram.of(low, high, counts)


def _channels(extremes: Tensor, histogram: Histogram) -> Tensor:
    if extremes.dim() != 2 or extremes.shape[1] != 2 or not len(extremes) or not extremes.is_floating_point():
        raise ValueError("it has tensors of the wrong kind")
    if not bool((extremes[:, 0] <= extremes[:, 1]).all()):
        raise ValueError("the extremes of a channel are no range")
    if (float(extremes[:, 0].min()), float(extremes[:, 1].max())) != (histogram.low, histogram.high):
        raise ValueError("the channels' extremes aren't those of the value")
    return extremes


def _first_line(error: Exception) -> str:
    said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return said.partition("\n")[0].rstrip(".")[:200] or type(error).__name__
