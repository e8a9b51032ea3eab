"""A backend that audits its two layers and tells no times."""

import numpy as np

from rescompress.spec import LayerPrecision, PrecisionReport


class Session:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def run(self, images):
        return np.zeros((len(images), 10), np.float32)


def missing():
    return None


def rung():
    return "L3", ""


def load(artifact, *, threads):
    return Session()


def audit(artifact):
    return PrecisionReport((LayerPrecision("conv1", "conv", "int8"), LayerPrecision("fc", "linear", "fp32")), {})
