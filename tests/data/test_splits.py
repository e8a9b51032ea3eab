"""How images are dealt into splits."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from rescompress.data._splits import balanced_order, digest, hold_out

labels_of_any_kind = st.lists(st.integers(0, 6), max_size=80)


@given(labels_of_any_kind)
def test_the_order_holds_every_image_once(classes: list[int]) -> None:
    labels = torch.tensor(classes, dtype=torch.int64)
    assert balanced_order(labels).sort().values.tolist() == list(range(len(classes)))


@given(labels_of_any_kind, st.integers(0, 90))
def test_at_most_half_of_each_class_is_held_out(classes: list[int], count: int) -> None:
    labels = torch.tensor(classes, dtype=torch.int64)
    rest, held = hold_out(labels, count)
    assert sorted((*rest.tolist(), *held.tolist())) == list(range(len(classes)))
    assert len(held) <= count
    assert (2 * labels[held].bincount(minlength=7) <= labels.bincount(minlength=7)).all()


def test_fewer_images_than_classes_come_from_random_classes() -> None:
    labels = torch.arange(1000).repeat_interleave(4)
    held = labels[hold_out(labels, 100)[1]]
    assert len(held.unique()) == 100
    assert held.max() > 900
    assert held.min() < 100


def test_the_seed_decides_the_order() -> None:
    labels = torch.zeros(50, dtype=torch.int64)
    assert torch.equal(balanced_order(labels, 1), balanced_order(labels, 1))
    assert not torch.equal(balanced_order(labels, 1), balanced_order(labels, 2))


def test_parts_of_a_digest_do_not_run_together() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest(["ab"]) == digest([b"ab"])
