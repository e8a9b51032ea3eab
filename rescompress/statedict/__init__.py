"""Plain tensors out of a checkpoint from elsewhere, which may lie.

``scan`` looks at the bytes and unpickles nothing; what it lets through is read in a process of its own, under limits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rescompress.statedict import sandbox, scan

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params"),
    *("state_dict_ema", "model_ema"),
)
"""Under what others keep a state dict in a checkpoint, best first: averaged weights only where there are no others."""
PREFIXES = frozenset({"module", "_orig_mod", "model", "net", "network"})
"""What DataParallel, torch.compile and trainers put before every name."""
DEEPEST = 4
"""Most wrappers around one another; a pickle may also hold itself."""


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name out of what ``torch.save`` or Keras wrote; empty if the file holds none.

    Args:
        path: a state dict, plain or wrapped, of ``torch.save`` in either of its forms, or the HDF5 weights of Keras,
            whose names are the paths in the file, such as ``conv1_conv/conv1_conv/kernel:0``.

    Raises:
        InputRefused: the file is corrupt, unsafe, or of another kind.
        ResourceExhausted: reading it took more memory, disk or time than a file of its size is worth.
        BackendMissing: h5py is not installed, and the file is of Keras.
    """
    kind = scan.kind_of(path)
    tensors = sandbox.read(kind, path)
    return strip(tensors) if kind == "torch" else tensors


def unwrap(content: Any, deepest: int = DEEPEST) -> dict[str, Tensor]:
    """The tensors of a state dict or of a checkpoint around one; what is no tensor is left out."""
    if not isinstance(content, Mapping) or deepest < 0:
        return {}
    for wrapper in WRAPPERS:
        if inner := unwrap(content.get(wrapper), deepest - 1):
            return inner
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def strip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefixes that all names share, such as ``module.``, one after another."""
    while len(firsts := {name.partition(".")[0] for name in state}) == 1:
        prefix = firsts.pop() + "."
        if prefix[:-1] not in PREFIXES or not all(len(name) > len(prefix) for name in state):
            break
        state = {name[len(prefix) :]: tensor for name, tensor in state.items()}
    return dict(state)
