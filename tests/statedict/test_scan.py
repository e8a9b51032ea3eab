"""Each kind of file that is no state dict is refused by its name, and none of it is ever loaded to find out."""

import io
import os
import pickle
import random
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rescompress.errors import InputRefused
from rescompress.statedict import opcodes, scan, zipped
from tests.networks import stock
from tests.statedict.files import EMPTY, STATE, legacy_of, refusal, saved, text, write, zip_of

CALL = text("id") + b"\x85R."
TRAPS = {
    "GLOBAL": b"\x80\x02cos\nsystem\n" + CALL,
    "GLOBAL in a dict": b"\x80\x02}" + text("x") + b"cos\nsystem\n" + text("id") + b"\x85Rs.",
    "INST": b"(S'id'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'id'\no.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + CALL,
    "STACK_GLOBAL by the memo": b"\x80\x04\x8c\x06system\x94\x8c\x02os\x9400h\x01h\x00\x93" + CALL,
    "STACK_GLOBAL by numbered memos": b"\x80\x04"
    + (text("os") + b"q\x070" + text("system") + b"r\x09\x00\x00\x000" + text("decoy") + b"q\x080")
    + (b"h\x07j\x09\x00\x00\x00\x93" + CALL),
    "BUILD": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("__setstate__") + b"cos\nsystem\nsb" + text("id") + b"b.",
}
BEYOND = {
    "numpy._core.multiarray.scalar": pickle.dumps(np.float64(1), 2),
    "torch.Tensor": b"\x80\x02ctorch\nTensor\n\x8a\x05\x00\x00\x00\x00\x10\x85R.",
    "torch.storage._load_from_bytes": b"\x80\x02ctorch.storage\n_load_from_bytes\nU\x00\x85R.",
    "torch._utils._rebuild_wrapper_subclass": b"\x80\x02ctorch._utils\n_rebuild_wrapper_subclass\n.",
    "torch._utils._rebuild_sparse_tensor": b"\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n.",
    "_codecs.encode": b"\x80\x02c_codecs\nencode\n.",
    "collections.OrderedDict.x": b"\x80\x02ccollections\nOrderedDict.x\n.",
    "argparse.Namespace": b"\x80\x02cargparse\nNamespace\n.",
    "__builtin__.set": b"\x80\x02c__builtin__\nset\n].",
    opcodes.UNKNOWN: b"\x80\x04" + text("o") + b"K\x01\x93.",
}
ODD = {
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x01.",
    "EXT4": b"\x80\x02\x84\x01\x01\x01\x01.",
    "PERSID": b"Pos.system\n.",
    "FRAME": pickle.dumps({"x": 1}, 4),
    "DUP": b"\x80\x02]2a.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "BYTEARRAY8": b"\x80\x05\x96" + bytes(8) + b".",
}


def refused(folder: Path, content: bytes, name: str = "odd.pt") -> str:
    path = write(folder, content, name)
    return refusal(lambda: scan.kind_of(path), InputRefused).fact


@pytest.mark.parametrize("zipped_form", [True, False])
@pytest.mark.parametrize(
    "content", [{}, STATE, {"state_dict": STATE, "epoch": 3, "lr": 0.1, "big": 2**70, "names": ["a", ("b", None)]}]
)
def test_a_state_dict_passes(tmp_path, content, zipped_form):
    assert scan.kind_of(write(tmp_path, saved(content, zipped_form))) == "torch"


def test_parameters_sizes_types_and_devices_pass(tmp_path):
    content = {"w": nn.Parameter(torch.ones(2)), "s": torch.Size([2]), "t": torch.float16, "d": torch.device("cpu")}
    assert scan.kind_of(write(tmp_path, saved({**content, "u": torch.ones(2, dtype=torch.bfloat16)}))) == "torch"


def test_real_files_pass(shared_data):
    files = sorted((shared_data / "weights").glob("*.th"))
    assert files
    for file in files:
        started = time.perf_counter()
        assert scan.kind_of(file) == "torch"
        assert time.perf_counter() - started < 2


@pytest.mark.parametrize("trap", TRAPS)
def test_code_is_refused_by_its_name(tmp_path, monkeypatch, trap):
    called = []
    monkeypatch.setattr(os, "system", called.append)
    for content in (zip_of(TRAPS[trap]), *(legacy_of(TRAPS[trap], place) for place in range(1, 5))):
        assert "loading it would call os.system" in refused(tmp_path, content)
    refused(tmp_path, legacy_of(TRAPS[trap], 0))
    assert called == []
    pickle.loads(TRAPS[trap])
    assert called == ["id"], "the trap is broken, so its refusal proves nothing"


@pytest.mark.parametrize("name", BEYOND)
def test_what_no_state_dict_needs_is_refused_by_its_name(tmp_path, name):
    for content in (zip_of(BEYOND[name]), legacy_of(BEYOND[name])):
        assert name in refused(tmp_path, content)


@pytest.mark.parametrize("opcode", ODD)
def test_opcodes_of_others_are_refused(tmp_path, opcode):
    for content in (zip_of(ODD[opcode]), legacy_of(ODD[opcode])):
        assert f"uses {opcode}," in refused(tmp_path, content)


def test_names_out_of_a_file_cannot_write_on_the_terminal(tmp_path):
    fact = refused(tmp_path, zip_of(b"\x80\x02cos\n\x1b[2Jsystem" + b"x" * 500 + b"\n."))
    assert "os.?[2Jsystem" in fact
    assert len(fact) < len(str(tmp_path)) + 200


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (b"", "truncated or corrupt"),
        (b"\x80\x02", "truncated or corrupt"),
        (b"\x80\x02}", "truncated or corrupt"),
        (b"\x80\x02R.", "truncated or corrupt"),
        (b"\x80\x020.", "truncated or corrupt"),
        (b"\x80\x02h\x07.", "truncated or corrupt"),
        (b"\x80\x02\x93.", "truncated or corrupt"),
        (b"\x80\x02t.", "truncated or corrupt"),
        (b"\x80\x02X\xff\xff\xff\xff.", "truncated or corrupt"),
        (b"\x80\x02c\xff\n\xff\n.", "truncated or corrupt"),
        (b"\x80\x02" + text("x" * 2**20 + "x") + b".", "a text of more than"),
        (b"\x80\x02Nr\xff\xff\xff\xff.", "a memo beyond its bound"),
        (b"\x80\x02" + b"N" * 1000 + b".", "more than 1,000 opcodes"),
    ],
)
def test_a_pickle_that_is_broken_or_too_large_is_refused(tmp_path, monkeypatch, pickled, said):
    monkeypatch.setattr(opcodes, "MOST_OPCODES", 1000)
    for content in (zip_of(pickled), legacy_of(pickled)):
        assert said in refused(tmp_path, content)


def test_whole_models_are_refused_by_their_class(tmp_path):
    model = stock("cifar", "resnet8")
    for zipped_form in (True, False):
        fact = refused(tmp_path, saved({"model": model}, zipped_form))
        assert "a whole pickled model of the class rescompress.models.cifar." in fact
    assert "of the class torch.nn.modules.linear.Linear" in refused(tmp_path, saved(nn.Linear(1, 1)))


def test_archives_of_other_kinds_are_refused_by_their_kind(tmp_path):
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones(3))
    assert "NumPy arrays" in refused(tmp_path, buffer.getvalue())
    for name in ("archive/constants.pkl", "archive/code/__torch__.py"):
        assert "TorchScript" in refused(tmp_path, zip_of(EMPTY, **{name: EMPTY}))
    keras = {"metadata.json": b"{}", "config.json": b"{}", "model.weights.h5": b"\x89HDF"}
    assert "whole Keras model" in refused(tmp_path, zip_of(EMPTY, **keras), "model.keras")
    for name in ("archive/archive_format", "serialized_exported_program.json"):
        assert "torch.export" in refused(tmp_path, zip_of(EMPTY, **{name: b"pt2"}))
    assert "torch.export" in refused(tmp_path, zip_of(EMPTY), "model.pt2")
    assert "torch.save didn't write" in refused(tmp_path, zip_of(EMPTY, **{"other/data.pkl": EMPTY}))
    assert "torch.save didn't write" in refused(tmp_path, zip_of(EMPTY, **{"readme.txt": b""}))


@pytest.mark.slow
def test_real_archives_of_other_kinds_are_refused_by_their_kind(tmp_path):
    torch.export.save(torch.export.export(nn.Linear(1, 1), (torch.ones(1, 1),)), tmp_path / "model.pt2")
    assert "torch.export" in refused(tmp_path, (tmp_path / "model.pt2").read_bytes())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_real_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)), tmp_path / "script.pt")
    assert "TorchScript" in refused(tmp_path, (tmp_path / "script.pt").read_bytes())


def test_files_of_other_kinds_are_refused_by_their_kind(tmp_path):
    for name in ("m.plan", "m.engine", "m.trt"):
        assert "TensorRT engine" in refused(tmp_path, b"anything", name)
    assert "TensorRT engine" in refused(tmp_path, b"ftrt" + bytes(99))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    assert "tar archive" in refused(tmp_path, buffer.getvalue())
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    assert "array of NumPy" in refused(tmp_path, buffer.getvalue())
    assert "bare pickle" in refused(tmp_path, pickle.dumps({"x": 1}, 2))
    assert "Git LFS pointer" in refused(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "web page" in refused(tmp_path, b"<!DOCTYPE html>")
    assert "compressed with xz" in refused(tmp_path, b"\xfd7zXZ\x00")
    assert "no HDF5 file" in refused(tmp_path, b"", "weights.h5")
    assert "torch.save didn't write it" in refused(tmp_path, b"")
    with pytest.raises(InputRefused, match="no file"):
        scan.kind_of(tmp_path)


def test_compressed_members_are_refused_unread(tmp_path):
    bomb = zip_of(EMPTY, method=zipfile.ZIP_DEFLATED, **{"archive/data/0": bytes(2**25)})
    assert len(bomb) < 2**16
    assert "compressed" in refused(tmp_path, bomb)
    bomb = zip_of(EMPTY + bytes(2**25), method=zipfile.ZIP_DEFLATED)
    assert "compressed" in refused(tmp_path, bomb)


@pytest.mark.parametrize("name", ["/etc/passwd", "archive/../x", "archive//x", "./x", "archive/a\\b", "archive/a\x1bb"])
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    assert "a member is named" in refused(tmp_path, zip_of(EMPTY, **{name: b""}))


def test_two_members_of_one_name_are_refused(tmp_path):
    assert "share one name" in refused(tmp_path, zip_of(EMPTY, **{"archive/DATA.PKL": TRAPS["GLOBAL"]}))
    twice = zip_of(EMPTY, **{"archive/data.pkx": TRAPS["GLOBAL"]}).replace(b"data.pkx", b"data.pkl")
    assert "share one name" in refused(tmp_path, twice)


def entry(content: bytes, number: int = 0) -> int:
    """Where the list of members has its entry of this number."""
    place = -1
    for _ in range(number + 1):
        place = content.index(b"PK\x01\x02", place + 1)
    return place


def changed(content: bytes, place: int, form: str, value: object) -> bytes:
    return content[:place] + struct.pack(form, value) + content[place + struct.calcsize(form) :]


def test_sizes_that_lie_are_refused(tmp_path):
    honest = zip_of(EMPTY, **{"archive/data/0": bytes(8)})
    third = entry(honest, 2)
    both = changed(changed(honest, third + 20, "<I", 2**31), third + 24, "<I", 2**31)
    assert "claim more bytes" in refused(tmp_path, both)
    assert "compressed" in refused(tmp_path, changed(honest, third + 24, "<I", 2**31))
    bit_more = changed(changed(honest, third + 20, "<I", 9), third + 24, "<I", 9)
    assert "truncated or corrupt" in refused(tmp_path, bit_more)


def test_headers_that_disagree_are_refused(tmp_path):
    honest = zip_of(EMPTY, **{"archive/data/0": bytes(8)})
    assert scan.kind_of(write(tmp_path, honest)) == "torch"
    lies = {
        "another name": changed(honest, 30, "<8s", b"archivf/"),
        "another method": changed(honest, 8, "<H", 8),
        "two members in one place": changed(honest, entry(honest, 2) + 42, "<I", 0),
        "a place beyond the file": changed(honest, entry(honest, 2) + 42, "<I", 2**30),
        "bytes behind the end": honest + b"x",
        "bytes before the start": b"PK\x03\x04" + honest,
        "a comment": honest[:-2] + b"\x01\x00x",
        "no list": honest[:4] + honest[-22:],
    }
    for lie, content in lies.items():
        assert "truncated or corrupt" in refused(tmp_path, content), lie


def test_a_hundred_thousand_members_are_refused_at_once(tmp_path):
    one = zip_of(EMPTY)
    start, end = entry(one), len(one) - 22
    for count, said in ((100_000, 0xFFFF), (25_000, 1), (100_000, 1)):
        listed = one[start:end] * count
        tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, said, said, len(listed), start, 0)
        started = time.perf_counter()
        assert refused(tmp_path, one[:start] + listed + tail)
        assert time.perf_counter() - started < 5


def test_a_long_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(zipped, "LONGEST_PICKLE", 3)
    assert "longer than 3 bytes" in refused(tmp_path, zip_of(EMPTY))


def mutated(content: bytes, dice: random.Random) -> bytes:
    """Cut, flip, splice, insert, repeat: what bad disks and bad people do."""
    made = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        place, length = dice.randrange(len(made) + 1), dice.randint(0, 40)
        kind = dice.randrange(5)
        if kind == 0 and made[:place]:
            del made[place:]
        elif kind == 1 and place < len(made):
            made[place] ^= 1 << dice.randrange(8)
        elif kind == 2:
            made[place : place + length] = dice.randbytes(length)
        elif kind == 3:
            made[place:place] = dice.randbytes(length)
        else:
            source = dice.randrange(len(made))
            made[place : place + length] = made[source : source + length]
    return bytes(made)


def fuzz(folder: Path, times: int) -> tuple[int, int]:
    """How many of so many mutations were refused and how many passed; any other end fails."""
    seeds = [saved(STATE), saved(STATE, zipped=False), zip_of(TRAPS["STACK_GLOBAL by the memo"]), zip_of(EMPTY)]
    bad = passed = 0
    for number in range(times):
        path = write(folder, mutated(seeds[number % len(seeds)], random.Random(number)))
        try:
            passed += scan.kind_of(path) in ("torch", "hdf5")
        except InputRefused:
            bad += 1
    return bad, passed


def test_nothing_but_a_refusal_comes_of_corrupt_bytes(tmp_path):
    bad, passed = fuzz(tmp_path, 400)
    assert bad > passed


@pytest.mark.slow
def test_nothing_but_a_refusal_comes_of_ten_thousand_corrupt_files(tmp_path):
    bad, passed = fuzz(tmp_path, 10_000)
    assert bad > passed
