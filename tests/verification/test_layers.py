"""Layer by layer: a value that is given takes the step's place, and only the layer at fault is blamed."""

import numpy as np
import pytest

from rescompress import graph, models
from rescompress.verification.layers import compare
from tests.networks import fused, noise, placed


def least_db(name, unseen):
    return 50.0 if unseen or name.endswith(".rounded") else 80.0


def inside(model, images):
    """What eager itself computes inside, by the names that a backend gives."""
    found = {}

    def seen(node, value):
        if "value_name" in node.meta and node.op == "call_function":
            found[graph.name_of(node)] = value.detach().numpy().copy()
        elif node.op == "call_module" and node.args[0].op == "call_function":
            found[f"{graph.name_of(node.args[0])}.rounded"] = value.detach().numpy().copy()

    traced = graph.capture(model, models.spec_of(model).input_shape, functional=False)
    with graph.evaluating(traced):
        graph.watch(traced, images, seen)
    return found


@pytest.fixture(scope="module", params=["float", "int8"])
def pair(request):
    model = fused("cifar", "resnet8") if request.param == "float" else placed("int8")
    images = noise(model, 4)
    return model, images, inside(model, images)


def test_a_model_agrees_with_itself(pair):
    rows = compare(*pair, least_db)
    assert [row.seen_at for row in rows]
    assert all(row.own_db == row.so_far_db == np.inf for row in rows)


def test_one_fault_is_blamed_on_one_layer_however_far_it_goes(pair):
    model, images, theirs = pair
    name = "layer2.0.conv1"
    wrong = {**theirs, name: theirs[name] * 1.01}
    rows = {row.seen_at: row for row in compare(model, images, wrong, least_db)}
    assert rows[name].departs
    assert rows[name].own_db == pytest.approx(40, abs=0.1)  # a hundredth of each value
    blamed = [row.layer for row in rows.values() if row.departs]
    assert blamed[0] == name
    assert set(blamed) <= {name, "layer2.0.relu"}  # the right value behind a wrong one


def test_a_layer_that_is_fused_away_is_named_by_what_comes_behind_it(pair):
    model, images, theirs = pair
    behind = next(name for name in ("layer2.0.relu.rounded", "layer2.0.relu") if name in theirs)
    kept = {name: value for name, value in theirs.items() if name not in ("layer2.0.conv1", "layer2.0.relu")}
    rows = compare(model, images, {**kept, behind: theirs[behind] * 2}, least_db)
    first = next(row for row in rows if row.departs)
    assert (first.layer, first.seen_at) == ("layer2.0.conv1", behind)


@pytest.mark.parametrize(
    "change", [lambda x: x * np.nan, lambda x: x[:, :1], lambda x: x.transpose(0, 1, 3, 2)[:, ::-1]]
)
def test_what_is_no_number_or_of_another_shape_departs(change, pair):
    model, images, theirs = pair
    rows = compare(model, images, {**theirs, "layer1.0.conv1": change(theirs["layer1.0.conv1"])}, least_db)
    assert next(row.layer for row in rows if row.departs) == "layer1.0.conv1"


def test_a_few_flips_are_no_fault():
    model = placed("int8")
    images = noise(model, 2)
    theirs = inside(model, images)
    name = "avg_pool.rounded"
    step = np.diff(np.unique(theirs[name])).min()
    for flips, departs in ((3, False), (40, True)):
        wrong = theirs[name].copy()
        wrong.reshape(-1)[:flips] += step
        rows = {row.seen_at: row for row in compare(model, images, {**theirs, name: wrong}, least_db)}
        assert rows[name].departs == departs
