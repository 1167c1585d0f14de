"""Figures as people say them."""

from __future__ import annotations

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
NOTHING = "–"


def duration(seconds: float | None) -> str:
    """Two units at most: "0.4 s", "42 s", "12 min 30 s", "3 h 12 min", "2 d 4 h", "140 d"."""
    if seconds is None:
        return NOTHING
    if seconds < 0:
        return f"−{duration(-seconds)}"
    if seconds < MINUTE_S:
        return f"{seconds:.0f} s" if seconds >= 9.95 or seconds == 0 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < HOUR_S:
        return _pair(whole, 60, "min", "s")
    minutes = round(seconds / MINUTE_S)
    if minutes < DAY_S // MINUTE_S:
        return _pair(minutes, 60, "h", "min")
    hours = round(seconds / HOUR_S)
    return _pair(hours, 24, "d", "h") if hours < 100 * 24 else f"{round(seconds / DAY_S):,} d"


def short_duration(seconds: float | None) -> str:
    """One unit, three digits, for tables: "8.50 s", "42.1 s", "12.5 min", "3.20 h", "2.17 d"."""
    if seconds is None:
        return NOTHING
    units = ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "min"))
    unit_s, unit = next(((unit_s, unit) for unit_s, unit in units if seconds >= unit_s), (1, "s"))
    value = seconds / unit_s
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}" if value else "0 s"


def percent(share: float | None, digits: int = 1) -> str:
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 0) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def change(new: float, old: float) -> str:
    """In proportion: "−31 %", "+4.2 %", and from a doubling on "×3.4"."""
    if old <= 0:
        return NOTHING
    ratio = new / old
    if ratio >= 2:
        return f"×{ratio:.1f}" if ratio < 100 else f"×{ratio:,.0f}"
    percents = 100 * (ratio - 1)
    text = f"{abs(percents):.0f} %" if abs(percents) >= 9.95 else f"{abs(percents):.1f} %"
    return text if text == "0.0 %" else f"{'−' if percents < 0 else '+'}{text}"


def _pair(count: int, per_large: int, large: str, small: str) -> str:
    whole, rest = divmod(count, per_large)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"
