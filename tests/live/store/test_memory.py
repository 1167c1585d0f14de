"""Policy memory and decision records become bytes and come back exactly; what would not is refused; bytes cannot run code."""

from __future__ import annotations

import pickle
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trainmaster.errors import InputError, InvariantBroken
from trainmaster.live.store import decision_record, memory
from trainmaster.policies.base import DecisionRecord

dtypes = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?")
    | hnp.complex_number_dtypes()
    | hnp.unicode_string_dtypes()
    | hnp.byte_string_dtypes()
    | hnp.array_dtypes(hnp.scalar_dtypes(), min_size=1)
)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0)))
scalars = hnp.scalar_dtypes().flatmap(hnp.from_dtype)
text = st.text(st.characters(codec=None), max_size=8) | st.sampled_from(["$", "$array", "$scalar", "$$array", ""])
json_values = st.none() | st.booleans() | st.integers() | st.floats() | text
values = st.recursive(
    json_values | arrays | scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=12
)
memories = st.dictionaries(text, values, max_size=5)


def same(one: Any, other: Any) -> bool:
    """Equal in type, dtype, shape and bits."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return repr(one) == repr(other)  # NaN and -0.0 too


@given(memories)
def test_a_memory_comes_back_exactly(before: dict[str, Any]):
    assert same(memory.decode(memory.encode(before)), before)


def test_an_array_that_comes_back_can_be_written_to():
    after = memory.decode(memory.encode({"start_s": np.full(3, np.inf)}))
    after["start_s"][1] = 5.0
    assert list(after["start_s"]) == [np.inf, 5.0, np.inf]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_order_in_memory_makes_no_difference(shape: tuple[int, ...]):
    before = {"a": np.asfortranarray(np.arange(np.prod(shape)).reshape(shape)), "b": np.arange(20)[::-3]}
    after = memory.decode(memory.encode(before))
    assert np.array_equal(after["a"], before["a"]) and np.array_equal(after["b"], before["b"])


@pytest.mark.parametrize(
    "value, where",
    [
        ((1, 2), "memory.x is a tuple"), ({1: 2}, "keys that are no text"), ([{"y": {1}}], r"memory.x\[0\].y is a set"),
        (object(), "is a object"), (np.array([object()]), "array of objects"),
    ],
)  # fmt: skip
def test_what_would_not_come_back_the_same_is_refused_and_named(value: object, where: str):
    with pytest.raises(InvariantBroken, match=where):
        memory.encode({"x": value})


@given(memories, st.data())
def test_damaged_bytes_are_refused_in_one_line(before: dict[str, Any], data: st.DataObject):
    whole = bytearray(memory.encode(before))
    if data.draw(st.booleans()):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    try:
        after = memory.decode(bytes(whole))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert same(after, before)  # a bit that zlib does not use


def packed(head: bytes, body: bytes = b"") -> bytes:
    return zlib.compress(memory.LENGTH.pack(len(head)) + head + body)


class Dangerous:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was run",))


def test_no_pickle_is_ever_run():
    array = np.array([Dangerous()], dtype=object)
    import io

    body = io.BytesIO()
    np.lib.format.write_array(body, array, allow_pickle=True)
    for data in (packed(b'{"x":{"$array":0}}', body.getvalue()), pickle.dumps(Dangerous()), packed(b"{}", pickle.dumps(Dangerous()))):
        with pytest.raises(InputError, match="cannot be read"):
            memory.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"", packed(b"[]"), packed(b'{"x":{"$array":0}}'), packed(b'{"x":{"$array":"y"}}'), packed(b"[" * 100_000),
        zlib.compress(b"\xff\xff\xff\xff{}"),
    ],
)
def test_bytes_of_another_kind_are_refused(data: bytes):
    with pytest.raises(InputError, match="cannot be read"):
        memory.decode(data)


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "MAX_BYTES", 1_000)
    with pytest.raises(InputError, match="more than 1,000 bytes"):
        memory.decode(memory.encode({"x": np.zeros(1_000_000)}))


def test_an_array_that_claims_to_be_larger_than_its_bytes_is_refused():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n"
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(InputError, match="cannot be read"):
        memory.decode(packed(b'{"x":{"$array":0}}', body))


@given(st.integers(0, 30), st.data())
def test_a_decision_record_comes_back_exactly(jobs: int, data: st.DataObject):
    column = hnp.arrays(np.float64, jobs)
    record = DecisionRecord(
        decision=data.draw(st.integers(0, 2**40)), now_s=data.draw(st.floats(0, 1e10)), seq=data.draw(hnp.arrays(np.int64, jobs)),
        verdict=data.draw(hnp.arrays(np.int8, jobs)), short_gpus=data.draw(column),
        columns=data.draw(st.dictionaries(text, column | hnp.arrays(np.int32, (jobs, 2)), max_size=3)),
    )  # fmt: skip
    after = decision_record.decode(decision_record.encode(record))
    assert type(after) is DecisionRecord
    for name in decision_record.NAMES:
        assert same(getattr(after, name), getattr(record, name)), name


def test_a_memory_is_not_taken_for_a_decision_record():
    with pytest.raises(InputError, match="written by another version"):
        decision_record.decode(memory.encode({"shared": np.zeros(1)}))
