"""Pickled files: what is read out of them, and what is refused before it runs."""

from __future__ import annotations

import argparse
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from iscutils.files.artifacts import KitError
from iscutils.models.unpickle import read_checkpoint

ARRAYS = {
    "float": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12, dtype=np.float64).reshape(3, 4)),
    "half": np.arange(6, dtype=np.float16).reshape(1, 2, 3),
    "big_endian": np.arange(5, dtype=">f4"),
    "counter": np.array(7, dtype=np.int64),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "strided": np.arange(20, dtype=np.float32)[::3],
}


def write(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_come_back_as_tensors(tmp_path, protocol):
    content = {"model": OrderedDict(ARRAYS), "epoch": 3, "best": np.float64(0.5), "note": "a"}
    read = read_checkpoint(write(tmp_path / "x.pkl", content, protocol))
    assert (read["epoch"], read["best"], read["note"]) == (3, 0.5, "a")
    assert list(read["model"]) == list(ARRAYS)
    for name, array in ARRAYS.items():
        tensor = read["model"][name]
        assert tensor.shape == array.shape
        assert tensor.dtype == torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).dtype
        assert tensor.tolist() == array.tolist()
        tensor.zero_()  # memory of its own


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_tensors_of_a_plain_pickle_come_back(tmp_path, protocol):
    state = torch.nn.BatchNorm2d(4).state_dict()
    state["view"] = torch.arange(12.0).reshape(3, 4).T[1:]
    state["parameter"] = torch.nn.Parameter(torch.rand(2, 2))
    assert state._metadata  # noted by torch beside the items
    read = read_checkpoint(write(tmp_path / "x.pkl", {"model": state}, protocol))["model"]
    assert list(read) == list(state)
    assert all(torch.equal(read[name], value) for name, value in state.items())
    assert not any(value.requires_grad for value in read.values())


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_may_hold_arguments_and_numbers(tmp_path, zipped):
    content = {
        "teacher": {"a": torch.ones(2)},
        "array": np.arange(3.0),
        "best": np.float32(0.5),
        "args": argparse.Namespace(lr=1),
    }
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(tmp_path / "x.pth")
    assert torch.equal(read["teacher"]["a"], torch.ones(2))
    assert torch.equal(read["array"], torch.arange(3.0, dtype=torch.float64))
    assert read["best"] == 0.5


class Bad:
    """What it gives to a pickle is called when an ordinary unpickler opens the file."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def opened(path) -> str:
    with pytest.raises(KitError) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    assert "no file of weights" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.mkdir, "posix.mkdir"),
        (eval, "builtins.eval"),
        (getattr, "builtins.getattr"),
        (pickle.loads, "_pickle.loads"),
        (torch.load, "torch.serialization.load"),
        (np.load, "numpy.load"),
        (np.memmap, "numpy.memmap"),
    ],
)
def test_code_is_refused_by_name_and_not_run(tmp_path, function, named):
    made = tmp_path / "made"
    argument = f"__import__('os').mkdir({str(made)!r})" if function is eval else str(made)
    path = tmp_path / "x.pkl"
    content = {"model": {"a": np.zeros(2)}, "more": Bad(function, argument)}
    assert f"it names {named}, which is not admitted" in opened(write(path, content))
    torch.save(content, tmp_path / "x.pth")
    assert named.split(".")[-1] in opened(tmp_path / "x.pth")
    assert not made.exists()
    if function in (os.mkdir, eval):  # the same bytes do act in an ordinary unpickler
        pickle.loads(path.read_bytes())
        assert made.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_inside_the_storage_of_a_tensor_is_refused(tmp_path):
    made = tmp_path / "made"
    inner = pickle.dumps(Bad(os.mkdir, str(made)))
    opened(write(tmp_path / "x.pkl", {"a": Bad(torch.storage._load_from_bytes, inner)}))
    assert not made.exists()


def raw(*instructions: bytes) -> bytes:
    return b"\x80\x02" + b"".join(instructions) + b"."


@pytest.mark.parametrize(
    "content",
    [
        # State for functions and types of the table, which must stay what they are.
        raw(b"ctorch._utils\n_rebuild_parameter\n", b"}X\x08\x00\x00\x00__name__K\x01sb"),
        raw(b"ctorch._utils\n_rebuild_parameter\n", b"N}X\x09\x00\x00\x00_functionK\x01s\x86b"),
        raw(b"cnumpy\nndarray\n", b"}X\x06\x00\x00\x00valuesK\x01sb"),
        raw(b"ccollections\nOrderedDict\n", b"N}X\x05\x00\x00\x00itemsK\x01s\x86b"),
        raw(b"cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R"),  # arrays of objects
        raw(b"ccollections\nOrderedDict.fromkeys\n"),  # attributes of what is admitted
        raw(b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R"),
        raw(b"cnumpy.core.multiarray\n_reconstruct\nccollections\nOrderedDict\n\x85R"),
        raw(b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00)K\x01)tR"),
        raw(b"X\x01\x00\x00\x00aQ"),  # a persistent id
        raw(b"\x82\x01"),  # an extension code
        b"\x80\x04\x95",
        b"\x80\x04N",
        b"\x80",
    ],
)
def test_forged_and_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "x.pkl").write_bytes(content)
    opened(tmp_path / "x.pkl")
    good = read_checkpoint(write(tmp_path / "good.pkl", {"a": np.arange(3)}))
    assert good["a"].tolist() == [0, 1, 2]


def test_arrays_with_wrong_counts_of_bytes_or_objects_are_refused(tmp_path):
    whole = pickle.dumps({"a": np.arange(4, dtype=np.int8)}, protocol=2)
    shape = b"K\x04\x85"
    assert whole.count(shape) == 1
    (tmp_path / "x.pkl").write_bytes(whole.replace(shape, b"K\x40\x85"))
    opened(tmp_path / "x.pkl")
    opened(write(tmp_path / "y.pkl", {"a": np.array([None, {}])}))
    torch.save({"a": np.array([None, {}])}, tmp_path / "y.pth")
    opened(tmp_path / "y.pth")
    loop = {}
    loop["loop"] = loop
    opened(write(tmp_path / "z.pkl", loop))
