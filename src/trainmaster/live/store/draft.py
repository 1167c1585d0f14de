"""Records by the ten thousand: a frozen dataclass takes five times as long to fill as one that is not (it sets each field through
`object.__setattr__`), and that, not the database, was most of a long listing. So a row fills a draft, a class of the same slots
that is not frozen, and the draft then becomes the record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, make_dataclass
from typing import Any


def draft_of(record: type, columns: Sequence[str]) -> Callable[..., Any]:
    """A class whose instances are filled by position, in the order of columns and then of the record's other fields (None unless
    given), and whose `__class__` may be set to `record`."""
    others = [f.name for f in fields(record) if f.name not in columns]
    return make_dataclass(record.__name__, [*((name, Any) for name in columns), *((name, Any, None) for name in others)], slots=True)
