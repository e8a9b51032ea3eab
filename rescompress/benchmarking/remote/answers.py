"""What came back from a device, believed only after it was looked at: it may be broken, or anybody's."""

import base64
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from rescompress import errors
from rescompress.benchmarking.method import Launch
from rescompress.benchmarking.remote.device import plain
from rescompress.errors import InputRefused, RescompressError
from rescompress.timing import ColdRow

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1 << 62, strict=True)]
Text = Annotated[str, Field(max_length=1000)]


@dataclass(frozen=True)
class _Candidate:
    """As ``runner.launch`` writes it."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    shape: tuple[Count, Count]
    outputs: str
    load_ms: Positive
    first_ms: Positive
    steady: bool
    peak_rss_bytes: Count
    blocks: tuple[Annotated[tuple[Count, ...], Field(min_length=1)], ...]
    starts: tuple[Positive, ...]


@dataclass(frozen=True)
class Answer:
    """One launch, as the device tells it.

    Attributes:
        clocks: CPU seconds that went by, of which busy, stolen, and busy with us; None where the device has no such
            clocks.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    candidates: tuple[_Candidate, ...]
    clocks: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class _Failed:
    error: tuple[Text, Text, Text]


def launch(text: bytes, job: dict[str, Any]) -> tuple[Launch, Answer]:
    """A launch out of its file.

    Args:
        text: of the file.
        job: what was asked.

    Raises:
        InputRefused: it is no launch of this job.
    """
    try:
        answer = TypeAdapter(Answer).validate_json(text)
        if len(answer.candidates) != len(job["candidates"]):
            raise ValueError("there are other candidates in it")
        outputs = tuple(_outputs(one) for one in answer.candidates)
        turns = {len(some) for one in answer.candidates for some in (one.blocks, one.starts)}
        if len(turns) != 1 or not min(job["fewest_rounds"], job["blocks"]) <= max(turns) <= job["blocks"]:
            raise ValueError("blocks are missing")
    except ValidationError as error:
        raise _broken(error.errors()[0]["msg"]) from None
    except ValueError as error:
        raise _broken(str(error)) from None
    return Launch(
        blocks=tuple(tuple(np.array(block, np.int64) for block in one.blocks) for one in answer.candidates),
        outputs=outputs,
        steady=tuple(one.steady for one in answer.candidates),
        starts=tuple(one.starts for one in answer.candidates),
        cold=tuple(ColdRow(one.load_ms, one.first_ms, one.peak_rss_bytes) for one in answer.candidates),
    ), answer


def failure(text: bytes) -> RescompressError:
    """The error that the device tells; an odd one is refused."""
    try:
        name, fact, remedy = TypeAdapter(_Failed).validate_json(text).error
    except ValidationError as error:
        return _broken(error.errors()[0]["msg"])
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, RescompressError)):
        kind = errors.WorkerCrashed
    return kind(" ".join(fact.split()), " ".join(remedy.split()))


def _outputs(one: _Candidate) -> np.ndarray[Any, np.dtype[np.float32]]:
    content = base64.b64decode(one.outputs, validate=True)
    if len(content) != 4 * one.shape[0] * one.shape[1]:
        raise ValueError("its outputs have another shape")
    return np.frombuffer(content, "<f4").reshape(one.shape)


def _broken(why: str) -> InputRefused:
    return InputRefused(f"What the device gave back can't be read: {plain(why)}.", "Run the command again.")
