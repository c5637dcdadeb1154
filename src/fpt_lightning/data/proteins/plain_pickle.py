"""Pickles of others, read as data: nothing that they name is imported or run."""

import copyreg
import io
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

# what the interpreter of a damaged pickle raises, beside UnpicklingError
DAMAGE = (ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RecursionError, TypeError, ValueError)

MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
"""The operations that number what they keep."""


def loads(content: bytes) -> Any:
    """Reads a pickle of plain containers, strings, numbers and numpy arrays of numbers or strings.

    Numpy's own functions are never handed out: with a state of its choice a pickle makes ``numpy.dtype`` read beyond
    its memory. Stand-ins of ours, which check what they are given, build the arrays.

    Raises:
        pickle.UnpicklingError: If the pickle is damaged or asks for anything else.
    """
    copyreg.clear_extension_cache()  # what it holds is handed out without asking find_class
    try:
        _expect_small_memo(content)
        return _Unpickler(io.BytesIO(content)).load()
    except DAMAGE as error:
        raise pickle.UnpicklingError(f"damaged pickle: {error}") from error


def _expect_small_memo(content: bytes) -> None:
    """Refuses numbers of memo entries that no writer gives: room is made for as many entries as the number says."""
    for opcode, number, _ in pickletools.genops(content):
        if opcode.name in MEMO and (number or 0) > len(content):
            raise pickle.UnpicklingError(f"damaged pickle: {len(content):,} bytes ask for {number:,} entries")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which is not plain data")
        return KNOWN[module, name]


class _Sealed:
    """A function that a pickle may call, and whose attributes it cannot set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the pickle sets the state of a function")


class _Dtype:
    """Stands for ``numpy.dtype``: numbers and strings only, no objects, no fields."""

    __slots__ = ("value",)

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufcSU][1-9][0-9]{0,5}", code):
            raise pickle.UnpicklingError(f"the pickle has an array of {code!r}, which is not plain data")
        self.value: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        _, order, *structure = state[:5]
        if any(part is not None for part in structure):
            raise pickle.UnpicklingError("the pickle has an array with fields, which is not plain data")
        self.value = self.value.newbyteorder(order)


class _Array(np.ndarray):
    """Stands for ``numpy.ndarray``: empty until its state is known and checked."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        checked: Any = _from_bytes(content, dtype, shape, "F" if fortran else "C").__reduce__()
        super().__setstate__(checked[2])


def _from_bytes(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("the pickle has an array without a dtype")
    return np.frombuffer(content, dtype.value).reshape(shape, order=order)


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array(0, dtype=np.int8)


def _scalar(dtype: Any, content: Any) -> Any:
    return _from_bytes(content, dtype, (1,), "C")[0]


def _encode(text: Any, encoding: Any) -> bytes:
    """Protocols 0 to 2 write bytes as text in latin1."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("the pickle encodes something other than bytes")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """What protocols 0 to 2 write for bytes of length zero."""
    return b""


def _never(*arguments: Any) -> Any:
    raise pickle.UnpicklingError("the pickle calls numpy.ndarray, which it may only name")


KNOWN: dict[tuple[str, str], _Sealed] = {
    ("numpy", "dtype"): _Sealed(_Dtype),
    ("numpy", "ndarray"): _Sealed(_never),
    ("_codecs", "encode"): _Sealed(_encode),
    ("__builtin__", "bytes"): _Sealed(_no_bytes),
    # numpy 2 renamed numpy.core
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Sealed(_reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Sealed(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Sealed(_from_bytes) for core in ("core", "_core")},
}
"""Everything that a pickle may name, and what it gets."""
