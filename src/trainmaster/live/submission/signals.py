"""`--signal=[B:]SIG[@SECONDS]`: the signal that warns a job before it is stopped, and how long before. And signals by name."""

from __future__ import annotations

import signal
from contextlib import suppress

from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError

BEFORE_S = 60.0  # sbatch's default
LONGEST_S = 65_535  # sbatch's bound


def signal_number(text: str, at: str) -> int:
    """Of `USR1`, `SIGUSR1` or `10`."""
    word = text.strip().upper()
    number = 0
    if word.isascii() and word.isdecimal() and len(word) < 4:
        number = int(word)
    else:
        with suppress(KeyError):
            number = signal.Signals[word if word.startswith("SIG") else f"SIG{word}"]
    if not 1 <= number <= 64:
        raise InputError(f"{at}: {quoted(text)} is not a signal; e.g. USR1, TERM, 10")
    return int(number)


def stop_signal(text: str, at: str) -> dict[str, object]:
    """The fields of `spec.StopSignal`."""
    flags, colon, rest = text.strip().rpartition(":")
    if colon and set(flags.upper()) - {"B", "R"}:
        raise InputError(f"{at}: {quoted(text)}: before the colon comes B, the batch shell alone; e.g. B:USR1@120")
    name, arobase, seconds = rest.partition("@")
    if arobase and (not seconds.isascii() or not seconds.isdecimal() or int(seconds) > LONGEST_S):
        raise InputError(f"{at}: {quoted(text)}: after @ come seconds, at most {LONGEST_S:,}; e.g. USR1@120")
    return {
        "number": signal_number(name, at),
        "before_s": float(seconds) if arobase else BEFORE_S,
        "batch_only": "B" in flags.upper(),
    }
