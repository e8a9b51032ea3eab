"""A backend that does what its artifact's entry file says: die, refuse, talk, hang, or answer."""

import ctypes
import json
import os
import sys
import time

import numpy as np

from rescompress import errors
from rescompress.spec import LayerPrecision, PrecisionReport

SCHEME = None


def missing():
    return None


def rung():
    return "L3", ""


def load(artifact, *, threads):
    return Session(json.loads(artifact.entry.read_text()), threads)


def audit(artifact):
    return PrecisionReport((LayerPrecision("conv1", "conv", "int8"),), {"QLinearConv": 1})


class Session:
    def __init__(self, fates, threads):
        self._fates, self._threads = fates, threads
        self._meet(fates.get("loading"))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def run(self, images):
        """Logits: the image's mean, the size of the batch, the threads, and the threads of OpenMP."""
        self._meet(self._fates.get("running"))
        facts = [len(images), self._threads, int(os.environ["OMP_NUM_THREADS"])]
        return np.stack([np.array([image.mean(), *facts]) for image in images])

    def _meet(self, fate):
        if fate == "aborts":
            os.abort()
        elif fate == "leaves":
            sys.stderr.write("first words\nlast words\n")
            sys.stderr.flush()
            os._exit(3)
        elif fate == "is wrong":
            raise ValueError("odd")
        elif fate == "hangs":
            time.sleep(60)
        elif fate == "talks":
            print("print")
            sys.stdout.write("no end of line")
            os.write(1, b'{"error": "Nonsense"}\n')
            ctypes.CDLL(None).puts(b"from C")
            ctypes.CDLL(None).fflush(None)
        elif fate:
            raise getattr(errors, fate)("It can't.", "Don't.")
