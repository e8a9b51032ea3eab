"""The process that opens one file from elsewhere: ``python -m rescompress.statedict KIND IN OUT LIMITS``."""

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rescompress.errors import InputRefused, RescompressError, ResourceExhausted
from rescompress.statedict import opcodes, sandbox, unwrap
from rescompress.statedict.hdf5 import read_hdf5
from rescompress.statedict.onnx_graph import read_onnx
from rescompress.statedict.opcodes import AGAIN

SUSPECT = "Check where the file comes from, and save it again with torch.save."


def main() -> int:
    """Read, and write the tensors as safetensors; what is wrong goes to standard output as one line of JSON."""
    kind, source, target, limits = sys.argv[1:]
    granted = sandbox.Limits(**json.loads(limits))
    _limit(granted)
    try:
        tensors = READERS[kind](Path(source), granted)
        save_file(tensors, target)
    except Exception as caught:  # torch, safetensors and h5py answer corrupt files with a dozen kinds of exception
        error = _told(caught)
        said = {"error": type(error).__name__, "fact": error.fact, "remedy": error.remedy}
        print("\n" + json.dumps(said), flush=True)
        return error.exit_code
    return 0


def read_torch(path: Path, granted: sandbox.Limits) -> dict[str, Tensor]:
    """Tensors of a state dict, each one with memory of its own.

    Raises:
        InputRefused: tensors are larger than what the file stores.
    """
    tensors = unwrap(torch.load(path, map_location="cpu", weights_only=True))
    for name, tensor in tensors.items():
        stored = tensor.untyped_storage().nbytes() if tensor.layout is torch.strided else 0
        if math.prod(tensor.shape) * tensor.element_size() > stored:
            raise InputRefused(
                f"is no plain state dict: {opcodes.shown(name)} is larger than the memory behind it.",
                "Save its tensors whole: torch.save({name: t.contiguous() for name, t in state.items()}, PATH).",
            )
    whole = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if whole > granted.file_bytes:
        raise InputRefused("is no plain state dict: its tensors are larger than the file.", SUSPECT)
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


Reader = Callable[[Path, sandbox.Limits], dict[str, Tensor]]
READERS: dict[str, Reader] = {"torch": read_torch, "hdf5": read_hdf5, "onnx": read_onnx}


def _limit(granted: sandbox.Limits) -> None:
    """Bind this process, which has imported everything by now, to what it was granted."""
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return
    limits = {
        resource.RLIMIT_CPU: granted.processor_s,
        resource.RLIMIT_FSIZE: granted.file_bytes,
        resource.RLIMIT_CORE: 0,
    }
    statm = Path("/proc/self/statm")
    if statm.exists():  # elsewhere nothing says how much this process has, and a limit below that ends it
        has = int(statm.read_text("ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
        limits[resource.RLIMIT_AS] = has + granted.memory_bytes
    for limit, most in limits.items():
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))


def _told(error: Exception) -> RescompressError:
    """An exception in one sentence, without the advice in it to load the file unsafely."""
    if isinstance(error, RescompressError):
        return error
    text = str(error)
    if isinstance(error, MemoryError) or "allocate memory" in text or "not enough memory" in text:
        return ResourceExhausted(
            "asks for more memory than a file of its size is worth.",
            "Check where the file comes from; if you trust it, save its tensors again with torch.save.",
        )
    if "File too large" in text:  # safetensors has no error of its own for it
        return ResourceExhausted("holds more than a file of its size is worth.", SUSPECT)
    if "No space left" in text:
        return ResourceExhausted("can't be read: the disk for temporary files is full.", "Free some space.")
    said = text.partition("Unpickler error: ")[2] or text
    said = said.strip().partition("\n")[0].partition("(Could this error message")[0]
    first = opcodes.shown(said, 200).rstrip(". ")
    return InputRefused(f"can't be read as a plain state dict: {first or 'it is corrupt'}.", AGAIN)


if __name__ == "__main__":
    sys.exit(main())
