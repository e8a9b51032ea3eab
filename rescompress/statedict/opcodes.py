"""One pickle, walked opcode by opcode and never executed, against what a dict of tensors needs.

The opcodes are those that PyTorch's own restricted unpickler knows, all of which name what they import in plain sight.
"""

import io
import pickletools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from pickletools import OpcodeInfo, markobject
from typing import Any

from rescompress.errors import InputRefused

OPCODES = frozenset(
    {
        *("MARK", "STOP", "PROTO", "GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
        *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
        *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    }
)
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
STORAGES = ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
GLOBALS = frozenset(
    {
        *("collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device"),
        *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"),
        *("torch._utils._rebuild_parameter", "torch.nn.parameter.Parameter"),
        *("torch.storage.UntypedStorage", "torch.storage.TypedStorage"),
        *(f"torch.{dtype}" for dtype in DTYPES),
        *(f"torch.{name}Storage" for name in STORAGES),
    }
)
"""What PyTorch allows, less what makes memory out of nothing or a tensor that is not plain."""
RUNNERS = frozenset(
    {
        *("os", "posix", "nt", "subprocess", "commands", "pty", "sys", "builtins", "__builtin__", "importlib", "runpy"),
        *("shutil", "socket", "ctypes", "code", "timeit", "pickle", "webbrowser", "urllib"),
    }
)
"""Modules that a trap calls; what such a pickle holds beside it does not matter."""
VALUES = frozenset({"set", "frozenset", "bytearray", "complex", "slice", "range", "object"})
"""What honest pickles take from ``builtins``."""
SAVE = "Where you trust the file, save only its tensors: torch.save(model.state_dict(), PATH)."
AGAIN = "Copy or download it again, and compare its checksum."
LONGEST_PICKLE = 64 * 2**20
"""Bytes of names and shapes; those of ResNet-152 are 200 kB."""
MOST_OPCODES, LONGEST_TEXT = 500_000, 2**20
"""A tensor takes about 30 opcodes."""
UNKNOWN = "a name that it makes up while loading"


def check(path: Path, stream: io.BytesIO) -> None:
    """Walk one pickle and leave the stream behind it.

    Raises:
        InputRefused: it is corrupt, too large, names something outside of ``GLOBALS``, or could do so unseen.
    """
    names: list[str] = []
    odd: list[str] = []
    try:
        for opcode, name in _walk(stream):
            if name is not None and name not in GLOBALS:
                names.append(name)
            elif name is None and opcode not in OPCODES:
                odd.append(opcode)
    except OverflowError as error:
        raise InputRefused(f"{path} is no plain state dict: its pickle has {error}.", SAVE) from None
    except (ValueError, LookupError):
        raise InputRefused(
            f"{path} is no plain state dict: its pickle is truncated or corrupt.",
            AGAIN,
        ) from None
    if names:
        raise _refused(path, names)
    if odd:
        raise InputRefused(
            f"{path} is no plain state dict: its pickle uses {odd[0]}, which PyTorch doesn't write by itself.",
            "Save it again with torch.save and its default pickle protocol.",
        )


def shown(text: str, longest: int = 80) -> str:
    """A name out of a file, fit for a terminal."""
    return re.sub(r"[^ -~]", "?", text[:longest])


def _refused(path: Path, names: list[str]) -> InputRefused:
    """One refusal for all that is outside of the allow-list: code first, then a model, then the rest."""
    runs = [n for n in names if n.partition(".")[0] in RUNNERS and n.rpartition(".")[2] not in VALUES]
    if runs:
        return InputRefused(
            f"{path} is no plain state dict: loading it would call {shown(runs[0])}.",
            "Don't load it; ask where it came from.",
        )
    if any(name.startswith("torch.nn.modules.") for name in names):
        return InputRefused(
            f"{path} holds a whole pickled model of the class {shown(names[0])}, no plain state dict.", SAVE
        )
    kind = "values of NumPy, " if names[0].startswith("numpy") else ""
    return InputRefused(f"{path} is no plain state dict: beside tensors it holds {kind}{shown(names[0])}.", SAVE)


def _walk(stream: io.BytesIO) -> Iterator[tuple[str, str | None]]:
    """Opcodes by name, and what each of them imports.

    The stack is kept as ``pickletools.dis`` keeps it, holding texts and marks only: STACK_GLOBAL takes its two names
    from there, and they may have come by way of the memo.

    Raises:
        OverflowError: saying which bound is broken.
        ValueError, LookupError: the pickle is corrupt.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names with escapes in them make pickletools warn
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MOST_OPCODES:
                raise OverflowError(f"more than {MOST_OPCODES:,} opcodes")
            if isinstance(argument, (str, bytes)) and len(argument) > LONGEST_TEXT:
                raise OverflowError(f"a text of more than {LONGEST_TEXT:,} bytes")
            if opcode.name.endswith("PUT") and not 0 <= int(argument or 0) < MOST_OPCODES:
                raise OverflowError("a memo beyond its bound")
            yield opcode.name, _import(opcode.name, argument, stack)
            _step(opcode, argument, stack, memo)


def _import(opcode: str, argument: Any, stack: list[Any]) -> str | None:
    if opcode in ("GLOBAL", "INST"):
        module, _, name = argument.partition(" ")
        return f"{module}.{name}"
    if opcode != "STACK_GLOBAL":
        return None
    module, name = stack[-2:]
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else UNKNOWN


def _step(opcode: OpcodeInfo, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """Do to the stack and the memo what an opcode would do."""
    before, after = opcode.stack_before, opcode.stack_after
    pushed: list[Any] = [argument if isinstance(argument, str) and opcode.name != "INST" else None] * len(after)
    if opcode.name.endswith("PUT"):
        memo[int(argument)] = stack[-1]
        return
    if opcode.name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
        return
    if opcode.name.endswith("GET"):
        pushed = [memo[int(argument)]]
    elif opcode.name == "DUP":
        pushed = [stack[-1]] * 2
    elif opcode.name == "MARK":
        pushed = [markobject]
    taken = len(before)
    if markobject in before or (opcode.name == "POP" and stack and stack[-1] is markobject):
        while stack.pop() is not markobject:
            pass
        taken = before.index(markobject) if markobject in before else 0
    if taken > len(stack):
        raise ValueError("the stack is empty")
    del stack[len(stack) - taken :]
    stack += pushed
