"""Templates, and how times and amounts read. Everything that is put into a page is escaped: names, reasons and logs are hostile."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse

from trainmaster import __version__

NOTHING = "–"
STATIC = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}


def page(template: str, http_status: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(_templates().get_template(template).render(version=__version__, http_status=http_status, **values), http_status)


@cache
def static(name: str) -> bytes:
    return (resources.files(__package__) / "static" / name).read_bytes()


def duration(seconds: float | None) -> str:
    """As `squeue` has them: 0:07, 2:03:04, 1-02:03:04."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}-{hour:02}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def span(seconds: float) -> str:
    """Roughly: 40 s, 7 min, 3 h, 2 d."""
    seconds = max(0.0, seconds)
    for unit, size, upto in (("s", 1, 100), ("min", 60, 5_400), ("h", 3_600, 172_800)):
        if seconds < upto:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def clock(at_s: float | None) -> str:
    return NOTHING if at_s is None else datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def amount(value: float | None) -> str:
    return NOTHING if value is None else f"{round(value, 3):,g}" if abs(value) < 100_000 else f"{value:,.0f}"


@cache
def _templates() -> Environment:
    made = Environment(loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(duration=duration, span=span, clock=clock, amount=amount)
    return made
