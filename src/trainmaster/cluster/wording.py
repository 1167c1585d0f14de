"""Pieces of one-line messages: text of the outside quoted so that it stays on one line, and the nearest known word."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable


def quoted(text: str, at_most: int = 60) -> str:
    """Text of the outside between quotes: one line, cut short, control characters escaped."""
    short = text if len(text) <= at_most else text[: at_most - 1] + "…"
    return json.dumps(short, ensure_ascii=not short.isprintable())


def printable(text: str) -> str:
    """Text of the outside for a terminal or a log: no escape sequence and no line end of its gets there."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "�" for letter in text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean "gpus"?` where a known word is near, else the first dozen of them, to end a sentence with."""
    words = list(known)
    near = difflib.get_close_matches(word.lower(), words, n=1)
    return f'did you mean "{near[0]}"?' if near else f"known: {', '.join(words[:12])}{', …' if len(words) > 12 else ''}"
