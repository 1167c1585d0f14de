"""What an operator may set of the HTTP side: bounds, and how open the queue is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    open_queue: bool = False  # users see a line of others' jobs (who, size, state) in listings; never names, labels or logs
    loopback: bool = True  # bound to this machine alone: the Host header must say so (DNS rebinding)
    secure: bool = False  # served by TLS: cookies say so too

    max_body_bytes: int = 8 << 20  # a batch script may have 4 MiB
    body_timeout_s: float = 30.0  # a request that dawdles is dropped
    max_jobs_a_request: int = 100_000  # arrays expanded
    max_streams: int = 64  # logs followed at a time
    max_whatifs: int = 2  # simulations at a time
    answer_timeout_s: float = 30.0  # of a change, until it is committed

    token_rate: float = 2_000.0  # requests a second of one token, sustained
    token_burst: int = 4_000
    address_rate: float = 4_000.0  # and of one address, right token or not
    address_burst: int = 8_000
    stranger_rate: float = 20.0  # and of one address without a token that is known: looking one up costs a query
    stranger_burst: int = 200
