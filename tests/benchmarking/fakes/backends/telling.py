"""A backend that audits its two layers, and tells threads as ms of the one and images as those of the other."""

from rescompress.backends.mute import audit, load, missing, rung

from rescompress.timing import LayerTime, ProfileRow

__all__ = ["audit", "load", "missing", "profile", "rung"]


def profile(artifact, images, *, threads):
    layers = LayerTime("conv1", "conv", float(threads), ("one",), ("add",)), LayerTime("fc", "linear", len(images))
    return ProfileRow(artifact.manifest.label, artifact.manifest.backend, "the fake", layers, 100.0)
