"""Points in time as Slurm's commands take them, in the time zone of this machine.

    now   now+2hours   now-7days   today   tomorrow   midnight   noon   fika   teatime   2026-11-25   2026-11-25T14:30   14:30   2:30PM
    11/25   11/25/26   1125   11.25   11/25-14:30
and Unix seconds (ten digits). A day without its year is the next one of that name where the future is meant, and the last one where the
past is.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta

from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError

HOURS = {"midnight": 0, "elevenses": 11, "noon": 12, "fika": 15, "teatime": 16}
DAYS = {"today": 0, "tomorrow": 1}
UNIT_S = {"s": 1, "second": 1, "m": 60, "minute": 60, "h": 3_600, "hour": 3_600, "d": 86_400, "day": 86_400, "w": 604_800, "week": 604_800}
MOST_S = 10 * 366 * 86_400

_NOW = re.compile(r"now(?:\s*([+-])\s*([0-9]{1,10})\s*([a-z]*))?")
_DASHED = re.compile(r"^([0-9]+(?:[/.][0-9]+)*)-(?=[0-9]{1,2}:)")  # 11/25-14:30, as sacct has it
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?\s*(am|pm)?")
_DATES = (
    re.compile(r"(?P<year>[0-9]{4})-(?P<month>[0-9]{1,2})-(?P<day>[0-9]{1,2})"),
    re.compile(r"(?P<month>[0-9]{1,2})[/.](?P<day>[0-9]{1,2})(?:[/.](?P<year>[0-9]{2,4}))?"),
    re.compile(r"(?P<month>[0-9]{2})(?P<day>[0-9]{2})(?P<year>[0-9]{2})?"),
)


def moment_s(text: str, at: str, now_s: float, *, ahead: bool) -> float:
    """Unix seconds. `ahead`: a time of day that is past means tomorrow's (`--begin`), else today's (`acct -S`)."""
    word, now = text.strip().lower(), datetime.fromtimestamp(now_s).astimezone()
    if match := _NOW.fullmatch(word):
        return now_s + _offset_s(match, text, at)
    if re.fullmatch(r"[0-9]{10}(\.[0-9]+)?", word):
        return float(word)
    try:
        day, clock, dated = _pieces(word, now.date())
        if day is None and clock is None:
            raise InputError(f"{at}: {quoted(text)} is not a time; e.g. now+2hours, 14:30, 2026-11-25T14:30")
        found = datetime.combine(day or now.date(), clock or time())  # without a zone: this machine's, summer time and all
        if day is None and ahead and found.timestamp() < now_s:
            found += timedelta(days=1)
        if not dated:
            found = found.replace(year=_year(found, now_s, ahead))
        return found.timestamp()
    except (ValueError, OverflowError, OSError):
        raise InputError(f"{at}: {quoted(text)}: there is no such day or hour") from None


def _offset_s(match: re.Match[str], text: str, at: str) -> float:
    sign, number, unit = match.groups()
    if sign is None:
        return 0.0
    unit_s = UNIT_S.get(unit, UNIT_S.get(unit.removesuffix("s"))) if unit else 1
    if unit_s is None or int(number) * unit_s > MOST_S:
        raise InputError(f"{at}: {quoted(text)} is not a time; e.g. now+2hours, now-7days")
    return int(number) * unit_s * (1 if sign == "+" else -1)


def _year(found: datetime, now_s: float, ahead: bool) -> int:
    """Of a day that was given without one."""
    if ahead:
        return found.year + (found.timestamp() < now_s)
    return found.year - (found.date() > datetime.fromtimestamp(now_s).date())


def _pieces(word: str, today: date) -> tuple[date | None, time | None, bool]:
    """The day and the hour that are given, and whether the year is known; (None, None) for what is neither."""
    word = _DASHED.sub(r"\1 ", word)
    dated = re.fullmatch(r"([0-9]{4}-[0-9-]+)[t ]\s*(\S+)", word)
    first, second = dated.groups() if dated else (word.partition(" ")[0], word.partition(" ")[2])
    pieces = [piece for piece in (first.strip(), second.strip()) if piece]
    if len(pieces) == 2 and pieces[1] in ("am", "pm"):
        pieces = [word]
    day: date | None = None
    clock: time | None = None
    known = True
    for piece in pieces:
        if piece in DAYS:
            day = today + timedelta(days=DAYS[piece])
        elif piece in HOURS:
            clock = time(HOURS[piece])
        elif match := _CLOCK.fullmatch(piece):
            clock = _clock(match)
        elif match := next((found for pattern in _DATES if (found := pattern.fullmatch(piece))), None):
            year, known = int(match["year"] or today.year), bool(match["year"])
            day = date(year + 2000 if year < 100 else year, int(match["month"]), int(match["day"]))
        else:
            return None, None, True
    return day, clock, known


def _clock(match: re.Match[str]) -> time:
    hour, minute, second, half = int(match[1]), int(match[2]), int(match[3] or 0), match[4]
    if half and not 1 <= hour <= 12:
        raise ValueError
    return time(hour % 12 + 12 * (half == "pm") if half else hour, minute, second)
