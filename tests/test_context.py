"""The surroundings of a stage: facts, and random draws that don't disturb each other."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from rescompress import models
from rescompress.context import Context, fit_data
from rescompress.errors import InputRefused, RecipeError
from tests.networks import context, stock


def draws(ctx: Context, purpose: str) -> list[float]:
    return torch.rand(4, generator=ctx.generator(purpose)).tolist()


def test_each_purpose_and_each_seed_draws_on_its_own() -> None:
    assert draws(Context(seed=1), "fit") == draws(Context(seed=1), "fit")
    found = [draws(Context(seed=seed), purpose) for seed in (1, 11) for purpose in ("fit", "distill", "1/fit")]
    assert all(one not in found[place + 1 :] for place, one in enumerate(found))


def test_a_context_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Context().seed = 3  # type: ignore[misc]


def test_another_reference_leaves_the_first_context_alone() -> None:
    first, model = context(), stock("cifar", "resnet8")
    second = first.with_reference(model)
    assert (first.reference, second.reference, second.data) == (None, model, first.data)


def test_missing_images_are_said_with_the_stage() -> None:
    with pytest.raises(RecipeError, match=r"quantize needs images\. Name a data source"):
        Context().images("quantize")


def test_a_model_is_its_own_reference() -> None:
    model = stock("cifar", "resnet8")
    ctx = Context.of(model, seed=5)
    assert (ctx.reference, ctx.seed, ctx.data) == (model, 5, None)


def test_data_of_other_classes_is_refused() -> None:
    spec = models.spec("cifar", "resnet8", 7)
    with pytest.raises(InputRefused, match="tells 7 classes apart, but toy has 10"):
        fit_data(context().data, spec)
    assert fit_data(None, spec) is None
