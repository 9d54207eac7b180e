"""Reading weights out of pickled files without running what they hold.

An ordinary unpickler calls whatever a file names, so that opening a file can do anything. The one
here looks every name up in a short table of its own, and nowhere else. The table holds stand-ins,
which copy numbers out of bytes and check their count; no constructor or state setter of NumPy is
called. Storages of torch tensors go to `torch.load(weights_only=True)`, which has a table of its
own. Everything else is refused by name before it is called.
"""

from __future__ import annotations

import argparse
import io
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iscutils.files.artifacts import KitError

# How torch's own old format begins (its magic number, pickled): it is for `torch.load` to read.
_TORCH_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "f2", "f4", "f8")
_ADVICE = "download it again, or choose a file of weights alone"
# What checkpoints hold beside weights: arguments of a script, which have no behaviour of their own,
# and NumPy's numbers and arrays.
_HARMLESS = [
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(name)) for name in _DTYPES),
    *(
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for function in (np._core.multiarray._reconstruct, np._core.multiarray.scalar)
        for core in ("core", "_core")
    ),
]


def read_checkpoint(path: str | Path) -> Any:
    """Content of a `.pt`, `.pth`, `.pth.tar` or `.pkl` file, tensors on the CPU; runs no code.

    Torch's own formats are read by `torch.load(weights_only=True)`, plain pickles (protocol 2 and
    later) by the restricted unpickler of this module. Arrays become tensors.

    Raises:
        KitError: the file is neither, is damaged, or names a type that is not admitted.
    """
    return _read_pickle(path) if _is_pickle(path) else _read_torch(path)


def _is_pickle(path: str | Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(len(_TORCH_START))
    return start[:1] == b"\x80" and start != _TORCH_START


def _read_torch(path: str | Path) -> Any:
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return _tensors(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch gives many kinds for files that are no weights
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it names {refused[1]}, which is not admitted" if refused else _first_line(error)
        raise KitError(f"{path} is no file of weights ({reason}): {_ADVICE}") from error


def _read_pickle(path: str | Path) -> Any:
    try:
        with open(path, "rb") as file:
            return _tensors(_Restricted(file, encoding="latin1").load())
    except _Refused as error:
        raise KitError(
            f"{path} is no file of weights (it names {error}, which is not admitted): {_ADVICE}"
        ) from error
    except Exception as error:  # whatever damaged bytes lead to
        raise KitError(f"{path} is no file of weights ({_first_line(error)}): {_ADVICE}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


class _Refused(Exception):
    """A name that is not in the table."""


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _ADMITTED:
            raise _Refused(full)
        return _ADMITTED[full]


class _Call:
    """A function of the table, as an object that a file cannot change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, *_: Any) -> None:
        raise pickle.UnpicklingError("functions of the table cannot be changed")

    __setstate__ = __setattr__


class _Dict(dict):
    """Stands for OrderedDict; what torch notes beside its items is left out."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Dtype:
    """Stands for numpy.dtype: kinds of plain numbers alone."""

    def __init__(self, name: str, *_: Any):
        if name not in _DTYPES:
            raise pickle.UnpicklingError(f"arrays of '{str(name)[:20]}' are not admitted")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for numpy.ndarray: shape, kind and order of the numbers, then their bytes."""

    def __init__(self, *_: Any):
        self.values = np.empty(0, np.float32)

    def __setstate__(self, state: tuple) -> None:
        _version, shape, kind, fortran, data = state
        self.values = _from_bytes(data, kind, shape, "F" if fortran else "C").values


def _reconstruct(kind: type, *_: Any) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("only plain arrays are admitted")
    return _Array()


def _from_bytes(data: Any, kind: _Dtype, shape: tuple, order: str = "C") -> _Array:
    data = data.encode("latin1") if isinstance(data, str) else bytes(data)  # str: from Python 2
    array = _Array()
    array.values = np.frombuffer(data, kind.dtype).reshape(shape, order=order)
    return array


def _scalar(kind: _Dtype, data: Any) -> int | float | bool:
    return _from_bytes(data, kind, ()).values.item()


def _encode(text: str, encoding: str) -> bytes:
    """How old pickles hold bytes; other encodings could unpack archives."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding '{str(encoding)[:20]}' is not admitted")
    return text.encode("latin1")


def _nothing() -> bytes:
    """How old pickles hold no bytes."""
    return b""


def _storage(data: bytes) -> Any:
    """A tensor's numbers, which torch writes in its own format inside the pickle."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple, stride: tuple, *_: Any) -> torch.Tensor:
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor without numbers")
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, False, {})


def _parameter(data: torch.Tensor, *_: Any) -> torch.Tensor:
    return data


_ADMITTED: dict[str, Any] = {
    "collections.OrderedDict": _Dict,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    "numpy.core.multiarray._reconstruct": _Call(_reconstruct),
    "numpy._core.multiarray._reconstruct": _Call(_reconstruct),
    "numpy.core.multiarray.scalar": _Call(_scalar),
    "numpy._core.multiarray.scalar": _Call(_scalar),
    "numpy.core.numeric._frombuffer": _Call(_from_bytes),
    "numpy._core.numeric._frombuffer": _Call(_from_bytes),
    "_codecs.encode": _Call(_encode),
    "__builtin__.bytes": _Call(_nothing),
    "torch.storage._load_from_bytes": _Call(_storage),
    "torch._utils._rebuild_tensor_v2": _Call(_tensor),
    "torch._utils._rebuild_parameter": _Call(_parameter),
}


def _tensors(value: Any) -> Any:
    """The same with tensors for arrays, in dictionaries of any depth."""
    if isinstance(value, _Array):
        value = value.values
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), order="C"))
    if isinstance(value, Mapping):
        return {name: _tensors(entry) for name, entry in value.items()}
    return value
