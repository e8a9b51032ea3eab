"""rescompress takes a trained ResNet and hands back a smaller, faster model, exported, checked and timed."""

import importlib
import os
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rescompress.benchmarking import benchmark
    from rescompress.checkpoint import load, save
    from rescompress.context import Context
    from rescompress.cost import layer_costs, total_cost
    from rescompress.distillation import distill
    from rescompress.errors import RescompressError
    from rescompress.factorization import factorize
    from rescompress.fusion import fuse
    from rescompress.inspection import inspect, inspect_onnx
    from rescompress.pipeline import export, run
    from rescompress.pruning import prune
    from rescompress.quantization import calibrate, quantize
    from rescompress.reporting import compare
    from rescompress.training import Schedule, fit
    from rescompress.verification import audit, verify

# ONNX Runtime 1.31 sends usage data and keeps a device id in the cache unless it is told not to before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = metadata.version("rescompress")
__all__ = [
    "Context",
    "RescompressError",
    "Schedule",
    "audit",
    "benchmark",
    "calibrate",
    "compare",
    "distill",
    "export",
    "factorize",
    "fit",
    "fuse",
    "inspect",
    "inspect_onnx",
    "layer_costs",
    "load",
    "prune",
    "quantize",
    "run",
    "save",
    "total_cost",
    "verify",
]
_HOMES = {
    "Context": "context",
    "RescompressError": "errors",
    "Schedule": "training",
    "audit": "verification",
    "benchmark": "benchmarking",
    "calibrate": "quantization",
    "compare": "reporting",
    "distill": "distillation",
    "export": "pipeline",
    "factorize": "factorization",
    "fit": "training",
    "fuse": "fusion",
    "inspect": "inspection",
    "inspect_onnx": "inspection",
    "layer_costs": "cost",
    "load": "checkpoint",
    "prune": "pruning",
    "quantize": "quantization",
    "run": "pipeline",
    "save": "checkpoint",
    "total_cost": "cost",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that the command line answers before PyTorch is loaded."""
    if name not in _HOMES:
        raise AttributeError(f"rescompress has no {name}")
    return getattr(importlib.import_module(f"rescompress.{_HOMES[name]}"), name)
