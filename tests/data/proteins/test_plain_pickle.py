import copyreg
import io
import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fpt_lightning.data.proteins.plain_pickle import loads

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)
DTYPES = (
    arrays.boolean_dtypes()
    | arrays.integer_dtypes()
    | arrays.unsigned_integer_dtypes()
    | arrays.floating_dtypes()
    | arrays.complex_number_dtypes()
    | arrays.unicode_string_dtypes()
    | arrays.byte_string_dtypes()
)
ARRAYS = arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_side=4))


@given(PLAIN, st.sampled_from(PROTOCOLS))
def test_plain_data_comes_back(value: Any, protocol: int) -> None:
    assert loads(pickle.dumps(value, protocol)) == value


@given(ARRAYS, st.sampled_from(PROTOCOLS), st.booleans())
def test_arrays_come_back(array: np.ndarray, protocol: int, transpose: bool) -> None:
    array = array.T if transpose and array.ndim <= 2 else array
    written = pickle.dumps({"array": array}, protocol)
    back = loads(written)["array"]
    assert back.dtype == pickle.loads(written)["array"].dtype
    np.testing.assert_array_equal(np.asarray(back), array)


@given(ARRAYS, st.sampled_from(PROTOCOLS))
def test_numpy_scalars_come_back(array: np.ndarray, protocol: int) -> None:
    scalar = array.ravel()[0]
    assume(scalar.dtype.itemsize)  # numpy's empty string
    back = loads(pickle.dumps(scalar, protocol))
    assert back.dtype == scalar.dtype
    np.testing.assert_array_equal(back, scalar)


def test_a_pickle_of_numpy_1_is_read() -> None:
    written = pickle.dumps([np.arange(6.0).reshape(2, 3), np.int64(3)], 2)
    if b"numpy._core" in written:
        written = written.replace(b"numpy._core", b"numpy.core")
    array, number = loads(written)
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert number == 3


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced

    def __call__(self) -> None:
        """What is called may itself be the result of a call."""


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file that must not come to be."""
    yield tmp_path / "hacked"
    assert not (tmp_path / "hacked").exists()


def test_an_ordinary_unpickler_would_run_it(tmp_path: Path) -> None:
    """So that the tests below show something."""
    chain = Call(Call(getattr, Call(__import__, "os"), "system"), f"touch {tmp_path / 'chain'}")
    pickle.loads(pickle.dumps([Call(os.system, f"touch {tmp_path / 'call'}"), chain]))
    assert {path.name for path in tmp_path.iterdir()} == {"call", "chain"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("nested", [False, True])
def test_nothing_that_a_pickle_names_is_run(victim: Path, protocol: int, nested: bool) -> None:
    code = f"open({str(victim)!r}, 'w')"
    for attack in (
        Call(os.system, f"touch {victim}"),
        Call(eval, code),
        Call(exec, code),
        Call(open, str(victim), "w"),
        Call(__import__, "os"),
        Call(Call(getattr, Call(__import__, "os"), "system"), f"touch {victim}"),
        Call(np.load, str(victim), None, True),
        Call(np.save, str(victim), 1),
        Call(np.memmap, str(victim), "uint8", "w+", 0, (1,)),
        Call(np.fromfile, str(victim)),
        Call(np.vectorize, os.system),
        Call(type, "name", (), {}),
        Call(io.FileIO, str(victim), "w"),
        Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {victim}"))),
    ):
        written = pickle.dumps({"primary": [attack]} if nested else attack, protocol)
        with pytest.raises(pickle.UnpicklingError, match="asks for"):
            loads(written)


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core", "numpy"])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("multiarray", "fromfile"),
        ("multiarray", "frombuffer"),
        ("multiarray", "_reconstruct.__globals__"),
        ("multiarray", "scalar.__class__"),
        ("multiarray", "os"),
        ("numeric", "_frombuffer.__globals__"),
        ("numeric", "load"),
        ("_methods", "os"),
        ("f2py", "compile"),
        ("testing", "runstring"),
    ],
)
def test_other_names_of_numpy_are_refused(core: str, module: str, name: str) -> None:
    for written in (
        _global(f"{core}.{module}", name) + b".",
        pickle.PROTO + b"\x04" + _text(f"{core}.{module}") + _text(name) + pickle.STACK_GLOBAL + b".",
    ):
        with pytest.raises(pickle.UnpicklingError, match=f"asks for {core}.{module}.{name}"):
            loads(written)


def _text(text: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()


def test_an_instance_is_no_way_round(victim: Path) -> None:
    """The opcodes INST, OBJ and NEWOBJ also call what is named."""
    touch = f"S'touch {victim}'\n".encode()
    for written in (
        b"(" + touch + b"ios\nsystem\n.",
        b"(" + _global("os", "system") + touch + b"o.",
        _global("os", "system") + b"(" + touch + b"t\x81.",
    ):
        with pytest.raises(pickle.UnpicklingError, match=r"asks for os\.system"):
            loads(written)


def test_persistent_ids_are_refused() -> None:
    for written in (b"Pos.system\n.", b"S'os.system'\nQ."):
        with pytest.raises(pickle.UnpicklingError, match="persistent"):
            loads(written)


@pytest.mark.parametrize("opcode", [b"\x82\xf0", b"\x83\xf0\x00", b"\x84\xf0\x00\x00\x00"])
@pytest.mark.parametrize("cached", [False, True])
def test_registered_extensions_are_refused(victim: Path, opcode: bytes, cached: bool) -> None:
    copyreg.add_extension("posix", "system", 0xF0)
    try:
        if cached:
            pickle.loads(opcode + b".")
        with pytest.raises(pickle.UnpicklingError, match=r"asks for posix\.system"):
            loads(opcode + f"(S'touch {victim}'\ntR.".encode())
    finally:
        copyreg.remove_extension("posix", "system", 0xF0)
        copyreg.clear_extension_cache()


def test_an_extension_that_nobody_registered_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="unregistered extension"):
        loads(b"\x82\xf0.")


NDARRAY = _global("numpy", "ndarray")
RECONSTRUCT = _global("numpy._core.multiarray", "_reconstruct")
DTYPE = _global("numpy", "dtype")
FLOATS = DTYPE + b"(S'f8'\nI00\nI01\ntR"
EMPTY = RECONSTRUCT + b"(" + NDARRAY + b"(I0\ntS'b'\ntR"


@pytest.mark.parametrize(
    "written",
    [
        DTYPE + b"}S'newbyteorder'\nS'x'\nsb.",
        RECONSTRUCT + b"}S'__code__'\nS'x'\nsb.",
        DTYPE + b"(N}S'__defaults__'\n(tstb.",
        NDARRAY + b"}S'__setstate__'\nS'x'\nsb.",
        DTYPE + b"]a.",
    ],
)
def test_what_a_pickle_may_call_it_cannot_change(written: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        loads(written)
    test_a_pickle_of_numpy_1_is_read()


@pytest.mark.parametrize(
    "written",
    [
        pickle.dumps(np.array([{}, None], dtype=object)),
        pickle.dumps(np.zeros(2, dtype=[("a", object)])),
        pickle.dumps(np.zeros(2, dtype=[("a", "f8")])),
        pickle.dumps(np.array(["2021-03-09"], dtype="M8[D]")),
        pickle.dumps(np.dtype("O")),
        # the attack on numpy's own dtype: fields beyond the item, then their bytes read from anywhere
        DTYPE + b"(S'V8'\nI00\nI01\ntR.",
        FLOATS + b"(I3\nS'<'\nN(S'a'\nt}S'a'\n(" + FLOATS + b"I99999999\ntsI8\nI1\nI0\ntb.",
        # an array without a dtype, without bytes enough, of a shape that is none, made by its class
        EMPTY + b"(I1\n(I2\ntS'f8'\nI00\nB\x10\x00\x00\x00" + bytes(16) + b"tb.",
        EMPTY + b"(I1\n(I3\nt" + FLOATS + b"I00\nB\x10\x00\x00\x00" + bytes(16) + b"tb.",
        EMPTY + b"(I1\nS'x'\n" + FLOATS + b"I00\nB\x10\x00\x00\x00" + bytes(16) + b"tb.",
        EMPTY + b"(I1\n(I2\nt" + FLOATS + b"I00\n](NNetb.",
        NDARRAY + b"(I2\ntR.",
        NDARRAY + b"(I2\nt\x81.",
        _global("_codecs", "encode") + b"(S'x'\nS'zlib'\ntR.",
        _global("numpy._core.multiarray", "scalar") + b"(" + FLOATS + b"B\x04\x00\x00\x00abcdtR.",
    ],
)
def test_arrays_of_anything_but_numbers_and_strings_are_refused(written: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        loads(written)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_cut_anywhere_is_damaged(protocol: int) -> None:
    whole = pickle.dumps({"primary": "ACDE", "profile": np.ones((2, 3), np.float32), "n": [1, 2.5, None]}, protocol)
    for end in range(len(whole)):
        with pytest.raises(pickle.UnpicklingError):
            loads(whole[:end])


@given(st.binary(max_size=60).filter(lambda content: b"r" not in content and b"p" not in content))
def test_noise_is_damaged_or_plain(content: bytes) -> None:
    """Without the opcodes that ask for memory at will."""
    with suppress(pickle.UnpicklingError):
        loads(content)


@pytest.mark.parametrize("content", [b"\x80\x02}r\xff\xff\xff\x0f.", b"}p268435455\n."])
def test_a_pickle_that_asks_for_gigabytes_gets_none(content: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(pickle.UnpicklingError, match="bytes ask for 268,435,455 entries"):
        loads(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
