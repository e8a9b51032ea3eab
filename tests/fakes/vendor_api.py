"""Names and signatures of what vendors' packages offer, read off the packages themselves; `vendor_api.json` keeps them.

To read them again, with the packages in folders of their own::

    pip install --no-deps --target V/t11 'tensorrt-cu13-bindings==11.4.*'
    pip install --no-deps --target V/t10 'tensorrt-cu12-bindings==10.16.*'
    pip install --target V/cuda cuda-bindings
    pip download --no-deps --no-binary :all: pycuda && tar xzf pycuda-*.tar.gz -C V
    python -m tests.fakes.vendor_api V > tests/fakes/vendor_api.json

TensorRT's bindings import once three libraries with nine C functions that give null stand in for the native ones; so
nothing is known of what they do, but every name, enum member and keyword is real. Format: a class maps a member to
``"ro"`` or ``"rw"`` (properties) or to the parameter lists of its overloads, where ``?`` marks one with a default.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

NATIVE = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
NULLS = (
    *("createInferBuilder_INTERNAL", "createInferRuntime_INTERNAL", "createInferRefitter_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getBuilderPluginRegistry"),
    *("getPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins"),
)
CLASSES = (
    *(
        "Builder",
        "INetworkDefinition",
        "IBuilderConfig",
        "IOptimizationProfile",
        "OnnxParser",
        "ParserError",
        "Runtime",
    ),
    *("ICudaEngine", "IExecutionContext", "EngineInspector", "ITimingCache", "IHostMemory", "ITensor", "ILogger"),
    *("Logger", "IProgressMonitor", "IProfiler", "Refitter", "OnnxParserRefitter"),
)
"""Classes of TensorRT that are kept; the others are layers and plugins, which an ONNX file makes needless."""
FUNCTIONS = ("nptype", "volume", "init_libnvinfer_plugins")
PYCUDA = ("Device", "Context", "Stream", "Event", "DeviceAllocation")
CUDA = r"cu(Stream|Graph)[A-Z]\w*"
CUDA_CLASSES = ("CUstream", "CUgraph", "CUgraphExec", "CUresult", "CUstreamCaptureMode")
Api = dict[str, Any]


def parameters(signature: str) -> list[str]:
    """Names of the parameters in ``name(self: A, x: int = 0)``, without ``self``; ``?`` where there is a default."""
    inner = signature[signature.index("(") + 1 :]
    parts, depth, part = [], 0, ""
    for letter in inner:
        if letter == ")" and depth == 0:
            break
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
    names = [text.strip() for text in (*parts, part) if text.strip()]
    named = [re.split(r"[:=]", text)[0].split()[-1] + ("?" if "=" in text else "") for text in names]
    return named[1:] if named[:1] == ["self"] else named


def overloads(name: str, doc: str) -> list[list[str]]:
    """The parameter lists that a pybind11 docstring tells."""
    told = re.findall(rf"^(?:\d+\. )?({re.escape(name)}\(.*)$", doc, re.MULTILINE)
    return [parameters(line) for line in told if "*args, **kwargs" not in line]


def tensorrt(trt: ModuleType) -> Api:
    """What the bindings offer."""
    api: Api = {"enums": {}, "classes": {}, "functions": {}}
    for name in dir(trt):
        kind = getattr(trt, name)
        if hasattr(kind, "__members__"):
            api["enums"][name] = sorted(kind.__members__)
    for name in CLASSES:
        api["classes"][name] = _members(getattr(trt, name))
    for name in FUNCTIONS:
        function = getattr(trt, name)
        if hasattr(function, "__code__"):
            api["functions"][name] = [list(function.__code__.co_varnames[: function.__code__.co_argcount])]
        else:
            api["functions"][name] = overloads(name, function.__doc__ or "")
    return api


def _members(kind: type) -> Api:
    members: Api = {"__init__": overloads("__init__", kind.__init__.__doc__ or "")}
    for name in dir(kind):
        value = getattr(kind, name)
        if name.startswith("_"):
            continue
        if isinstance(value, property):
            members[name] = "ro" if value.fset is None else "rw"
        elif callable(value) and not isinstance(value, type):
            members[name] = overloads(name, value.__doc__ or "")
        else:
            members[name] = "ro"  # a constant, such as ILogger.ERROR
    return members


def cuda(driver: ModuleType) -> Api:
    """What cuda-bindings offers of streams and graphs; the first line of a docstring is the signature."""
    api: Api = {"enums": {}, "classes": {}, "functions": {}}
    for name in filter(lambda name: re.fullmatch(CUDA, name), dir(driver)):
        api["functions"][name] = [parameters((getattr(driver, name).__doc__ or "()").splitlines()[0])]
    for name in CUDA_CLASSES:
        kind = getattr(driver, name)
        if hasattr(kind, "__members__"):
            api["enums"][name] = sorted(kind.__members__)
        else:
            api["classes"][name] = {"__init__": [["value?"]]}
    return api


def pycuda(source: str) -> Api:
    """What pycuda's C++ wrapper says to Boost.Python: classes, methods, properties, functions."""
    api: Api = {"enums": {}, "classes": {}, "functions": {}}
    for statement in re.split(r";", source):
        found = re.search(r'py::class_<.*?>\s*\(\s*"(\w+)"(.*)', statement, re.DOTALL)
        if found and found[1] in PYCUDA:
            api["classes"][found[1]] = _boost_members(found[2])
        for name, rest in re.findall(r'(?<!\.)py::def\(\s*"(\w+)"(.*)', statement, re.DOTALL):
            api["functions"][name] = _boost_arguments(rest)
        for name in re.findall(r"^\s*DEF_SIMPLE_FUNCTION\((\w+)\)", statement, re.MULTILINE):
            api["functions"][name] = None
    errors = re.findall(r"^\s+DECLARE_EXC\((\w+)", source, re.MULTILINE)
    api["classes"] |= {name: {} for name in errors}
    return api


def _boost_members(text: str) -> Api:
    members: Api = dict.fromkeys(re.findall(r"DEF_SIMPLE_METHOD\((\w+)\)", text))
    members |= dict.fromkeys(re.findall(r'\.add_property\("(\w+)"', text), "ro")
    for part in re.split(r"\.def\(", text)[1:]:
        if name := re.match(r'\s*"(\w+)"(.*)', part, re.DOTALL):
            members[name[1]] = _boost_arguments(re.split(r"\n\s*\.", name[2])[0])
    return members


def _boost_arguments(text: str) -> list[list[str]] | None:
    """Parameter names where the wrapper tells them; None where it takes any, by position."""
    given = re.findall(r'py::args?\(("\w+"(?:,\s*"\w+")*)\)(=)?', text)
    names = [(name, default) for group, default in given for name in re.findall(r'"(\w+)"', group)]
    return [[name + ("?" if default else "") for name, default in names if name != "self"]] if names else None


def stand_ins(folder: Path, major: str) -> None:
    """Compile the three libraries that TensorRT's bindings link to."""
    source = folder / "stub.c"
    source.write_text("\n".join(f"void* {name}(void) {{ return 0; }}" for name in NULLS))
    for name in NATIVE:
        target = folder / f"{name}.so.{major}"
        subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{target.name}", "-o", target, source], check=True)


def read(kind: str, folder: Path) -> Api:
    """What a package offers, found in a child process or in its sources; under "release" which release it is.

    Args:
        kind: ``t10``, ``t11``, ``cuda`` or ``pycuda``.
        folder: holds it.
    """
    if kind == "pycuda":
        return _pycuda_in(folder)
    return dict(json.loads(child(kind, folder, "-m", "tests.fakes.vendor_api", "--child", kind)))


def child(kind: str, folder: Path, *line: str) -> bytes:
    """What a Python process says that finds the packages of that folder, and stand-ins for their libraries."""
    with tempfile.TemporaryDirectory() as libraries:
        if kind != "cuda":
            stand_ins(Path(libraries), kind[1:])
        paths = {"LD_LIBRARY_PATH": libraries, "PYTHONPATH": os.pathsep.join([str(folder / kind), os.getcwd()])}
        environment = {**os.environ, **paths}
        return subprocess.run([sys.executable, *line], env=environment, check=True, capture_output=True).stdout


def _child(kind: str) -> Api:
    if kind == "cuda":
        return {
            "release": importlib.import_module("cuda.bindings").__version__,
            **cuda(importlib.import_module("cuda.bindings.driver")),
        }
    bindings = importlib.import_module("tensorrt_bindings")
    return {"release": bindings.__version__, **tensorrt(bindings)}


def _pycuda_in(folder: Path) -> Api:
    (found,) = folder.glob("pycuda-*/src/wrapper/wrap_cudadrv.cpp")
    return {"release": found.parts[-4].removeprefix("pycuda-"), **pycuda(found.read_text())}


def main() -> None:
    """Print all of it as JSON."""
    if sys.argv[1] == "--child":
        print(json.dumps(_child(sys.argv[2])))
        return
    folder = Path(sys.argv[1]).resolve()
    apis = {kind: read(kind, folder) for kind in ("t10", "t11", "cuda", "pycuda")}
    print("{" + ",\n".join(f'"{name}": {{\n' + _lines(api) + "}" for name, api in apis.items()) + "}")


def _lines(api: Api) -> str:
    """A line for each group's entry, so that differences can be read."""
    rows = [f'"release": {json.dumps(api["release"])}']
    for group in ("enums", "classes", "functions"):
        inner = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(api[group].items()))
        rows.append(f'"{group}": {{\n{inner}}}')
    return ",\n".join(rows)


if __name__ == "__main__":
    main()
