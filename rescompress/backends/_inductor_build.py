"""Compiling a network ahead of time with Inductor, and packing what came out so that equal models give equal bytes."""

import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from rescompress.errors import BackendMissing, InputRefused

KEPT = (".so", ".json", ".cubin", ".fatbin")
"""What loading needs of the compiler's output; its sources hold paths of this machine."""
CPP = re.compile(r'extern "C"\s+void\s+(cpp_fused_\w+)\(([^)]*)\)\s*\{')
TRITON = re.compile(r"triton_meta=\{'signature': \{([^}]*)\}.*?def (triton_\w+_fused_\w+)\(", re.DOTALL)
POINTED = {"float": "fp32", "at::BFloat16": "bf16", "bfloat16": "bf16", "at::Half": "fp16", "half": "fp16"}
POINTED |= {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "float32": "fp32", "float16": "fp16"}
"""Types of values that kernels read and write, as C++, Triton and PyTorch call them."""
CONSTANT = re.compile(
    r'constants_info_\[\d+\]\.name = "(\w+)";\s*constants_info_\[\d+\]\.dtype = cached_torch_dtype_(\w+);'
)
PRODUCT = re.compile(r"(aoti_torch_\w+?_(?:add)?mm_out)\((.*)")
"""A call of PyTorch's matrix product, which its profiler doesn't see on the CPU."""


def has_compiler() -> bool:
    """Whether there is a C++ compiler here."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def compile_package(
    module: nn.Module, example: Tensor, dynamic: bool, max_autotune: bool, target: Path
) -> dict[str, list[str]]:
    """Write a package of compiled code that takes what ``example`` is.

    Args:
        module: with its ends, in eval mode, on its device.
        example: images or pixels; two of them at least where the batch is dynamic, as one would be specialized.
        dynamic: take any number of images.
        max_autotune: try several kernels and keep the fastest.
        target: the package, which must end in ``.pt2``.

    Returns:
        The floats that each generated kernel reads and writes, by the kernel's name.

    Raises:
        BackendMissing: there is no C++ compiler here.
        InputRefused: Inductor can't compile the network.
    """
    if not has_compiler():
        raise BackendMissing("Inductor needs a C++ compiler, and g++ is not here.", "Install g++, or set CXX.")
    options = {
        "aot_inductor.enable_line_tables": False,  # debug information names source files
        "aot_inductor.precompile_headers": False,  # takes longer than it saves where one file is compiled
        "aot_inductor.model_name_for_generated_files": "model",
        "cpp.dynamic_threads": True,  # else kernels take as many threads as there were while compiling
        "max_autotune": max_autotune,
    }
    shapes = ({0: Dim("n")},) if dynamic else None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        raw = str(Path(folder) / target.name)
        try:
            program = torch.export.export(module, (example,), dynamic_shapes=shapes, strict=False)
            torch._inductor.aoti_compile_and_package(program, package_path=raw, inductor_configs=options)
        except Exception as error:  # the compiler raises classes of its own, and those of what it calls
            brief = str(error).strip().partition("\n")[0].rstrip(".")
            raise InputRefused(f"Inductor can't compile the network: {brief}.", "Export to onnxruntime.") from error
        return _repack(Path(raw), target)


def _repack(raw: Path, target: Path) -> dict[str, list[str]]:
    """Copy what loading needs, paths of this machine blotted out; gives the kernels that the sources hold."""
    found: dict[str, list[str]] = {}
    own = sorted({str(Path(torch.__file__).parents[1]), _cache()}, key=len, reverse=True)
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as copy:
        for entry in source.infolist():
            content, suffix = source.read(entry), Path(entry.filename).suffix
            if suffix == ".cpp":
                found |= kernels(content.decode("utf-8", "replace"))
            elif entry.filename.endswith("/.data/serialization_id"):
                continue  # a checksum of what was left out; nothing reads it
            elif suffix in KEPT or "/data/aotinductor/" not in entry.filename:
                for path in own:
                    content = content.replace(path.encode(), b"." * len(path))
                copy.writestr(zipfile.ZipInfo(entry.filename, (1980, 1, 1, 0, 0, 0)), content)
    return found


def kernels(source: str) -> dict[str, list[str]]:
    """The floats that kernels read and write, by name: generated ones, Triton's that C++ quotes, matrix products."""
    found: dict[str, set[str]] = {}
    for name, types in _signatures(source):
        found.setdefault(name, set()).update(POINTED[kind] for kind in types if kind in POINTED)
    return {name: sorted(types) for name, types in found.items()}


def _signatures(source: str) -> Iterator[tuple[str, list[str]]]:
    for name, arguments in CPP.findall(source):
        yield name, re.findall(r"(?:const )?([\w:]+)\s*\*", arguments)
    for arguments, name in TRITON.findall(source):
        yield name, re.findall(r"'\*(\w+)'", arguments)
    constants = dict(CONSTANT.findall(source))
    for name, arguments in PRODUCT.findall(source):
        yield name, [constants[word] for word in re.findall(r"\w+", arguments) if word in constants]


def _cache() -> str:
    """Where Inductor keeps what it generates."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return str(cache_dir())


def floats_of(found: Mapping[str, Any], word: str) -> str | None:
    """The narrowest floats that the kernels with a word in their name keep values in; None where there is none."""
    kept = {kind for name, types in found.items() if word in name.split("_") for kind in types}
    return next((kind for kind in ("fp16", "bf16", "fp32") if kind in kept), None)
