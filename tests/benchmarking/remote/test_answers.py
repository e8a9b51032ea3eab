"""What comes back from a device is looked at before it is believed."""

import base64
import json

import numpy as np
import pytest

from rescompress.benchmarking.remote import answers
from rescompress.errors import InputRefused, RescompressError, WorkerCrashed
from tests.benchmarking.remote.conftest import made

JOB = {"candidates": [{}, {}], "blocks": 2, "fewest_rounds": 10}


def good():
    one = {
        "shape": [2, 3], "outputs": base64.b64encode(np.arange(6, dtype="<f4").tobytes()).decode(), "load_ms": 5.5,
        "first_ms": 1.5, "steady": True, "peak_rss_bytes": 1 << 20, "blocks": [[10, 11], [12, 13, 14]],
        "starts": [1.5, 2.5],
    }  # fmt: skip
    return {"candidates": [one, {**one, "steady": False}], "clocks": [4.0, 2.0, 0.1, 1.5]}


def test_a_launch_is_read():
    launch, answer = answers.launch(json.dumps(good()).encode(), JOB)
    assert [[block.tolist() for block in of_one] for of_one in launch.blocks] == [[[10, 11], [12, 13, 14]]] * 2
    np.testing.assert_array_equal(launch.outputs[1], np.arange(6, dtype=np.float32).reshape(2, 3))
    assert launch.steady == (True, False)
    assert (launch.cold[0].load_ms, launch.cold[0].first_ms, launch.cold[0].peak_rss_bytes) == (5.5, 1.5, 1 << 20)
    assert answer.clocks == (4.0, 2.0, 0.1, 1.5)


BAD = [
    ("blocks", [[10, -1], [1]]), ("blocks", [[10, 0], [1]]), ("blocks", [[1.5], [1]]), ("blocks", [[], [1]]),
    ("blocks", [[1]]), ("blocks", [[1 << 63], [1]]), ("blocks", [["1"], [1]]), ("starts", [1.0]), ("outputs", "AAAA"),
    ("outputs", "!"), ("shape", [2, 10**9]), ("shape", [0, 3]), ("load_ms", -1), ("load_ms", float("nan")),
    ("first_ms", float("inf")), ("peak_rss_bytes", -5), ("steady", None), ("more", 1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_launch_with_a_wrong_value_is_refused(name, value):
    document = good()
    document["candidates"][1][name] = value
    with pytest.raises(InputRefused, match="can't be read"):
        answers.launch(json.dumps(document).encode(), JOB)


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"\xff\x00", b"null", b'{"candidates": [], "clocks": null}', b"9" * 9999]
)
def test_what_is_no_launch_is_refused(text):
    with pytest.raises(InputRefused, match="can't be read"):
        answers.launch(text, JOB)


def test_a_failure_is_the_error_that_it_names():
    told = answers.failure(json.dumps({"error": ["InputRefused", "A file is\nbroken.", "Export it."]}).encode())
    assert type(told) is InputRefused
    assert (told.fact, told.remedy) == ("A file is broken.", "Export it.")


@pytest.mark.parametrize("name", ["SystemExit", "__name__", "os", "", "RescompressErrors"])
def test_a_failure_of_an_odd_name_is_a_crash(name):
    assert type(answers.failure(json.dumps({"error": [name, "It died.", "Look."]}).encode())) is WorkerCrashed


@pytest.mark.parametrize("error", [["InputRefused"], {"a": 1}, ["InputRefused", "x" * 2000, "y"], None])
def test_an_odd_failure_is_refused(error):
    assert "can't be read" in answers.failure(json.dumps({"error": error}).encode()).fact


FAKE = """#!/bin/sh
case "$1" in -c) echo '{"Python": "3.9.1", "numpy": "1", "onnxruntime": "1"}'; exit;; esac
cd "$2" && %s
"""


@pytest.mark.xdist_group("sshd")
@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("echo garbage > launch-0; sleep 60", "can't be read"),
        (
            'echo \'{"error": ["InputRefused", "It is $(touch x) odd.", "No."]}\' > failed; sleep 60',
            "It is $(touch x) odd",
        ),
        ("echo 'the last word' >&2; exit 1", "the last word"),
        ("mkdir launch-0; exit 1", "ended early"),
        ("rm -rf ../../jobs", "find the benchmark's folder"),
    ],
)
def test_a_hostile_device_gets_a_clean_error_and_is_left_clean(reached, small, monkeypatch, deed, said):
    python = reached.home / "bin" / "fake python"
    python.write_text(FAKE % deed)
    python.chmod(0o755)
    monkeypatch.setenv("RESCOMPRESS_DEVICE_PYTHON", str(python))
    with pytest.raises(RescompressError) as caught:
        made(reached, small, 2, 0)
    python.unlink()
    assert said in caught.value.fact
    assert caught.value.fact.isprintable()
    assert reached.left() == set()
