"""Column types that hold the same values in SQLite and PostgreSQL, however hostile the value is.

PostgreSQL refuses NUL and lone surrogates in text (and in JSONB), and integers beyond 64 bits; SQLite turns NaN into NULL. What a
job reports about itself must not be able to stop the controller's transaction, so values are made to fit on the way in. JSON is
kept as ASCII text in both: it comes back exactly as it was, and nothing is ever searched inside it.
"""

from __future__ import annotations

import json
import math
from typing import Any

from sqlalchemy import BigInteger, Dialect, Double, Integer, Text
from sqlalchemy.types import TypeDecorator

from trainmaster.errors import InputError

MAX_INTEGER = (1 << 63) - 1


class Words(TypeDecorator[str]):
    """Text of at most so many characters; what is longer is cut, visibly."""

    impl = Text
    cache_ok = True

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or (value.isascii() and "\0" not in value and len(value) <= self.longest):
            return value
        clean = value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        return clean if len(clean) <= self.longest else clean[: self.longest - 1] + "…"


class Whole(TypeDecorator[int]):
    """An integer of 64 bits; what does not fit becomes the nearest that does."""

    impl = BigInteger().with_variant(Integer(), "sqlite")  # there INTEGER is 64 bits, and as a primary key the row's own number
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        return value if value is None else max(-MAX_INTEGER, min(MAX_INTEGER, int(value)))


class Real(TypeDecorator[float]):
    """A double; "not a number" is nothing known."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None or math.isnan(value) else float(value)


class Json(TypeDecorator[Any]):
    """A JSON value as text, read back as text: whoever reads thousands of rows decodes only what is not empty."""

    impl = Text
    cache_ok = True

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        if value is None:
            return None
        text = json.dumps(value, separators=(",", ":"))
        if len(text) > self.longest:
            raise InputError(f"a value of {len(text):,} bytes of JSON; the store takes at most {self.longest:,}: {text[:60]}…")
        return text
