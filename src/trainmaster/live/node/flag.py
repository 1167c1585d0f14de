"""The flag in a control folder: eight numbers in memory that the ranks of one node share (trainmaster.train has the other end)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

ASKED, STOP_STEP, MARGIN, HIGHEST, SAVE_STEP = range(5)  # places
MARGIN_STEPS = 2
FORMAT = struct.Struct("<8q")


def pack(flag: Sequence[int]) -> bytes:
    return FORMAT.pack(*flag)


def read(control: str) -> tuple[int, ...]:
    """ValueError: a job has cut it short."""
    with open(f"{control}/flag", "rb", buffering=0) as file:
        text = file.read(FORMAT.size)
    if len(text) < FORMAT.size:
        raise ValueError(f"{control}/flag: {len(text)} bytes")
    return FORMAT.unpack(text)


def put(control: str, place: int, value: int) -> None:
    """In place: ranks that have mapped it see it at once."""
    with open(f"{control}/flag", "r+b", buffering=0) as file:
        file.seek(8 * place)
        file.write(struct.pack("<q", value))
