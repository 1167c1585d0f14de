"""Fixtures of every test of the live cluster."""

from live.postgres import postgres

__all__ = ["postgres"]
