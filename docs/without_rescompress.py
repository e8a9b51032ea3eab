"""Run a compressed torchvision ResNet without rescompress: python docs/without_rescompress.py pruned.safetensors

A checkpoint is one safetensors file. Its metadata says in JSON which stock network it was cut from, and which of its
modules differ; the tensors bear torchvision's own names. So torchvision's class runs the cut network, once each tensor
stands in its place. A PyTorch convolution reads its widths off its weight; only its groups it must be told.
"""

import json
import sys

from safetensors import safe_open
from torch.nn import Identity
from torchvision.models import get_model  # noqa: TID253 - this file is no part of the package

file = safe_open(sys.argv[1], "pt")
about = json.loads(file.metadata()["rescompress"])
model = get_model(about["spec"]["architecture"], num_classes=about["spec"]["classes"]).eval()
for edit in about["edits"]:
    if edit["kind"] == "folded":  # a BatchNorm whose scale and shift are in the convolution before it
        model.set_submodule(edit["module"], Identity())
    model.get_submodule(edit["module"]).groups = edit["fields"].get("groups")
for name in file.keys():  # noqa: SIM118 - an open file, not a dict
    module, leaf = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    (module._parameters if leaf in module._parameters else module._buffers)[leaf] = file.get_tensor(name)

# Now model(images) gives the logits. How images are prepared is said too:
print(f"{about['spec']['architecture']}, {len(about['edits'])} edits; images: {about['spec']['preprocessing']}")
