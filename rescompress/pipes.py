"""Messages between a process and its worker: a line of JSON and, where it says ``"shape"``, raw numbers behind it.

The numbers are little-endian float32, or bytes. Nothing is unpickled.
"""

import json
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float32] | NDArray[np.uint8]
Message = tuple[dict[str, Any], Numbers | None]


def send(pipe: IO[bytes], message: dict[str, Any], array: Numbers | None = None) -> None:
    """Write one message.

    Args:
        pipe: where the other side reads.
        message: what JSON can hold.
        array: bytes, or what becomes float32.
    """
    if array is not None:
        kind = "u1" if array.dtype == np.uint8 else "<f4"
        array = np.ascontiguousarray(array, dtype=kind)
        message = {**message, "shape": array.shape, "type": kind}
    pipe.write(json.dumps(message).encode() + b"\n")
    if array is not None:
        pipe.write(array.tobytes())
    pipe.flush()


def receive(pipe: IO[bytes]) -> Message:
    """Read one message, and wait for it.

    Raises:
        EOFError: the other side has closed the pipe.
    """
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message = json.loads(line)
    if "shape" not in message:
        return message, None
    kind = np.dtype(message["type"])
    size = kind.itemsize * int(np.prod(message["shape"]))
    data = pipe.read(size)
    if len(data) != size:
        raise EOFError
    return message, np.frombuffer(data, kind).reshape(message["shape"])
