"""Which integers a value may become."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from rescompress.placement import place
from rescompress.schemes import SCHEMES
from rescompress.sites import Site, precision_of
from rescompress.spec import Precision
from tests.networks import KINDS, captured


@pytest.mark.parametrize(
    ("site", "limits", "bits"),
    [
        (Site("relu", "relu", "uint8"), (0, 255), 8),
        (Site("relu", "relu", "int8"), (-128, 127), 8),
        (Site("conv.weight", "conv.weight", "int8", 4), (-127, 127), 8),
        (Site("conv.weight", "conv.weight", "uint8", 4), (1, 255), 8),
        (Site("conv.weight", "conv.weight", "int4", 4), (-7, 7), 4),
    ],
)
def test_limits_and_bits(site: Site, limits: tuple[int, int], bits: int) -> None:
    assert (site.limits, site.bits) == (limits, bits)


@pytest.mark.parametrize(
    "fields",
    [
        {"value": "relu", "dtype": "int4"},
        {"value": "relu", "dtype": "int32"},
        {"value": "conv.weight", "dtype": "int32"},
        {"value": "relu", "dtype": "int8", "channels": 3},
        {"value": "conv.weight", "dtype": "uint8", "dynamic": True},
        {"value": "relu", "dtype": "int8", "dynamic": True},
        {"value": "relu", "dtype": "uint8", "dynamic": True, "symmetric": True},
        {"value": "relu", "dtype": "float8"},
    ],
)
def test_a_file_that_asks_for_what_no_runtime_has_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Site).validate_python({"quantizer": "q", **fields})


def test_a_site_from_before_there_were_other_kinds_is_static() -> None:
    old = TypeAdapter(Site).validate_python({"value": "relu", "quantizer": "relu", "dtype": "uint8", "channels": None})
    assert old == Site("relu", "relu", "uint8")


@pytest.mark.parametrize("runtime", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
def test_sites_tell_what_is_integers(kind: Precision, runtime: str) -> None:
    sites = place(captured("cifar", "resnet8"), SCHEMES[runtime], **KINDS[kind])
    assert precision_of(sites) == kind
    assert precision_of(()) == "fp32"
