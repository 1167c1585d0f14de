"""Rows that a test need not spell out."""

from __future__ import annotations

import json
from typing import Any

from trainmaster.live.backends.base import NodeShare
from trainmaster.live.store import AttemptRow, NewEvent, NewJob, Store, Transaction

SPEC = json.dumps({"name": "train", "command": ["python", "train.py"], "env": {"HOME": "/home/ada"}})


def new_job(tx: Transaction, **columns: Any) -> NewJob:
    spec = columns.pop("spec", None) or tx.add_specs([SPEC])[0]
    return NewJob(**{"spec": spec, "name": "train", "user": "ada", "gpus": 1.0, "submit_s": 10.0, "eligible_s": 10.0, **columns})


def add_job(store: Store, **columns: Any) -> int:
    with store.begin() as tx:
        (id,) = tx.add_jobs([new_job(tx, **columns)])
    return id


def attempt(job: int, number: int = 1, **columns: Any) -> AttemptRow:
    shares = (NodeShare(node="cpu-a", gpus=2.0, cpus=4.0, memory_gib=8.0), NodeShare(node="cpu-b", gpus=2.0))
    return AttemptRow(**{"job": job, "attempt": number, "state": "claimed", "shares": shares, "claimed_s": 20.0, **columns})


def write_all_parts(store: Store) -> int:
    """A job with an attempt, an event and a key: one transaction."""
    with store.begin() as tx:
        (id,) = tx.add_jobs([new_job(tx)])
        tx.add_attempts([attempt(id)])
        tx.add_events([NewEvent(at_s=1.0, kind="submitted", job=id)])
        tx.remember_key("ada", f"key-{id}", [id])
    return id
