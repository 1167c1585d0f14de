"""Policy memory as bytes and back: JSON values and NumPy arrays, exactly; nothing that is read can run code.

    zlib(  length of the head, 4 bytes little-endian
           head: JSON, in which {"$array": n} stands for the n-th array
           the arrays, each as an .npy file without pickle  )

Dtype (byte order too), shape, NaN and infinities come back as they were. NumPy scalars are arrays without dimensions that come back
as scalars. What would not come back the same (tuples, keys that are no text, objects) is refused.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainmaster.errors import InputError, InvariantBroken

LEVEL = 1  # a decision waits for this: higher levels take four times as long for a tenth less
MAX_BYTES = 1 << 30  # of what unpacks
MAX_NPY_HEADER = 1 << 16
LENGTH = struct.Struct("<I")


def encode(memory: Mapping[str, Any]) -> bytes:
    arrays: list[np.ndarray[Any, Any]] = []
    head = json.dumps(to_json(memory, arrays, "memory"), separators=(",", ":")).encode()
    body = io.BytesIO()
    body.write(LENGTH.pack(len(head)))
    body.write(head)
    for array in arrays:
        np.lib.format.write_array(body, array, allow_pickle=False)
    return zlib.compress(body.getbuffer(), LEVEL)


def decode(data: bytes) -> dict[str, Any]:
    try:
        unpacker = zlib.decompressobj()
        whole = unpacker.decompress(data, MAX_BYTES)
        if not unpacker.eof:
            raise ValueError("cut short" if not unpacker.unconsumed_tail else f"unpacks to more than {MAX_BYTES:,} bytes")
        (length,) = LENGTH.unpack_from(whole)
        if LENGTH.size + length > len(whole):
            raise ValueError("its head is longer than it is")
        head = json.loads(whole[LENGTH.size : LENGTH.size + length])
        body = io.BytesIO(whole)
        body.seek(LENGTH.size + length)
        arrays = []
        while body.tell() < len(whole):
            arrays.append(read_array(body))
        memory = from_json(head, arrays)
        if not isinstance(memory, dict):
            raise ValueError("not a mapping")
        return memory
    except (ValueError, KeyError, IndexError, TypeError, RecursionError, MemoryError, struct.error, zlib.error) as error:
        raise InputError(f"a record in the store cannot be read: {error}; it was damaged, or written by another version") from error


def read_array(body: io.BytesIO) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.lib.format.read_array(body, allow_pickle=False, max_header_size=MAX_NPY_HEADER)
    return array


def to_json(value: Any, arrays: list[np.ndarray[Any, Any]], where: str) -> Any:
    """The head's form of a value; arrays found on the way are appended. Keys of the memory's own that begin with $ get one more."""
    if isinstance(value, np.ndarray | np.generic):  # before float: np.float64 is one
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise InvariantBroken(f"policy memory: {where} is an array of objects: it cannot be stored")
        arrays.append(array)
        return {"$array" if isinstance(value, np.ndarray) else "$scalar": len(arrays) - 1}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) is list:
        return [to_json(item, arrays, f"{where}[{i}]") for i, item in enumerate(value)]
    if type(value) is dict and all(type(key) is str for key in value):
        return {f"${k}" if k.startswith("$") else k: to_json(item, arrays, f"{where}.{k}") for k, item in value.items()}
    kind = "mapping with keys that are no text" if type(value) is dict else type(value).__name__
    raise InvariantBroken(f"policy memory: {where} is a {kind}, neither a JSON value nor an array: it would not come back the same")


def from_json(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, list):
        return [from_json(item, arrays) for item in value]
    if isinstance(value, dict):
        if "$array" in value:
            return arrays[value["$array"]]
        if "$scalar" in value:
            return arrays[value["$scalar"]][()]
        return {k[1:] if k.startswith("$") else k: from_json(item, arrays) for k, item in value.items()}
    return value
