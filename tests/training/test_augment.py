"""Images are augmented in batches, and whoever holds a part of a batch sees what whoever holds all would see."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rescompress.training.augment import mixed, randaugment, shifted
from rescompress.training.batches import batches, least
from rescompress.training.schedule import Augment, rate


def pixels(count: int = 40, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["shift", "shift+mirror"])
def test_an_augmented_image_is_a_shifted_one(kind: Augment) -> None:
    images, reach = pixels(), 2
    padded = F.pad(images, (reach,) * 4)
    moved = [padded[:, :, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    candidates = torch.stack(moved + [image.flip(3) for image in moved])
    made = shifted(images, kind, torch.arange(40), 40, seeded())
    found = (candidates == made).flatten(2).all(2)
    assert found.any(0).all(), "an image is neither a shift nor a mirror image of its source"
    assert found.any(1)[:25].sum() > 10
    assert bool(found[25:].any()) == (kind == "shift+mirror")


def test_no_augmentation_gives_the_images_themselves() -> None:
    images = pixels(2, 8)
    assert shifted(images, "none", torch.arange(2), 2, seeded()) is images


@settings(max_examples=8)
@given(first=st.integers(0, 39), last=st.integers(0, 39))
def test_a_part_of_a_batch_is_augmented_as_in_the_whole(first: int, last: int) -> None:
    images, rows = pixels(), torch.arange(min(first, last), max(first, last) + 1)
    whole = shifted(images, "shift+mirror", torch.arange(40), 40, seeded())
    assert torch.equal(shifted(images[rows], "shift+mirror", rows, 40, seeded()), whole[rows])
    drawn = randaugment(images, 9, torch.arange(40), seed=3)
    assert torch.equal(randaugment(images[rows], 9, rows, seed=3), drawn[rows])


def test_rows_in_any_order_get_their_own_operations() -> None:
    images, rows = pixels(), torch.arange(-1, 40) % 40
    drawn = randaugment(images, 9, torch.arange(40), seed=3)
    assert torch.equal(randaugment(images[rows], 9, rows, seed=3), drawn[rows])


def test_randaugment_changes_images_and_leaves_the_global_generator_alone() -> None:
    state, images = torch.get_rng_state(), pixels()
    made = randaugment(images, 9, torch.arange(40), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.shape == images.shape
    assert made.dtype == torch.uint8
    assert not torch.equal(made, images)
    assert not torch.equal(randaugment(images, 9, torch.arange(40), seed=2), made)


@given(seed=st.integers(0, 2**31), alpha=st.floats(0.05, 5))
def test_mixup_blends_each_image_with_the_one_before_it(seed: int, alpha: float) -> None:
    images, labels = torch.randn(5, 3, 4, 4, generator=seeded()), F.one_hot(torch.arange(5)).float()
    made, soft = mixed(images, labels, alpha, seed, cut=False)
    share = float(soft[0, 1])
    assert 0 <= share <= 1
    assert torch.allclose(soft, share * labels[1:] + (1 - share) * labels[:-1], atol=1e-6)
    assert torch.allclose(made, share * images[1:] + (1 - share) * images[:-1], atol=1e-6)


@given(seed=st.integers(0, 2**31), alpha=st.floats(0.05, 5))
def test_cutmix_pastes_a_rectangle_whose_area_is_the_labels_share(seed: int, alpha: float) -> None:
    images, labels = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 8, 8), F.one_hot(torch.arange(5)).float()
    made, soft = mixed(images, labels, alpha, seed, cut=True)
    pasted = made[:, 0] == torch.arange(4.0).view(4, 1, 1)
    assert torch.equal(pasted, made[:, 2] == torch.arange(4.0).view(4, 1, 1))
    assert torch.allclose(soft[0, 0], pasted[0].float().mean(), atol=1e-6)
    rows, columns = pasted[0].any(1), pasted[0].any(0)
    assert int(pasted[0].sum()) == int(rows.sum()) * int(columns.sum()), "it is no rectangle"
    assert torch.equal(pasted, pasted[:1].expand_as(pasted))


@given(count=st.integers(2, 400), size=st.integers(2, 130))
def test_batches_hold_every_image_once_and_none_is_tiny(count: int, size: int) -> None:
    made = batches(torch.arange(count), size)
    assert torch.equal(torch.cat(made), torch.arange(count))
    assert all(len(batch) >= min(count, least(size)) for batch in made)
    assert all(len(batch) == size for batch in made[:-1])


@given(st.integers(1, 500), st.floats(0, 0.99))
def test_the_rate_rises_then_falls(steps: int, warmup: float) -> None:
    rates = [rate(step, steps, warmup) for step in range(steps)]
    peak = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert peak <= max(1, steps * warmup)
