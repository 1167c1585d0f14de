"""Processes of users that lie: site mode without Slurm and without sudo."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from live.backends.harness import PATIENCE_S
from trainmaster.live.backends.slurm_agent import Hello, Word
from trainmaster.live.backends.slurm_users import Agent, Mark, SlurmAsUsers


def wait_until(reached: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < until_s
        time.sleep(0.02)


def liar(tmp_path: Path, *lines: str) -> list[str]:
    """A process that says so and waits."""
    program = tmp_path / "liar"
    program.write_text("\n".join(["#!/bin/sh", *(f"echo '{line}'" for line in lines), "cat > /dev/null", ""]))
    program.chmod(0o755)
    return [str(program)]


def site_of(tmp_path: Path, argv: list[str]) -> SlurmAsUsers:
    """eve's process is the one given; ada's attempt 1 of job 1 and eve's of job 2 are there."""
    backend = SlurmAsUsers(tmp_path / "state", tmp_path / "program")
    (tmp_path / "state" / "site" / "live").mkdir(parents=True)
    backend._site = "0"
    hello = Hello(site="0", slurm_conf=None, log_limit=0)
    for job, user in ((1, "ada"), (2, "eve")):
        backend._marks[job, 1] = Mark(user, {"n1": 1.0})
        backend._agents[user] = Agent(user, argv if user == "eve" else ["cat"], hello, lambda: None, backend._shut_out)
    return backend


def answering(tmp_path: Path, **reply: Any) -> SlurmAsUsers:
    """eve's process gives this answer to whatever it is asked."""
    program = tmp_path / "answers"
    said, replied = json.dumps(asdict(Word())), json.dumps({"replies": [{"id": 0, **reply}] * 2}).replace('"id": 0', '"id": \'"$id"\'')
    each = f"id=${{asked#*:}}; id=${{id%%,*}}; echo '{replied}'"
    program.write_text(f"#!/bin/sh\necho '{said}'\nread hello\nwhile read asked; do {each}; done\n")
    program.chmod(0o755)
    backend = site_of(tmp_path, [str(program)])
    backend._check_account = lambda user: None  # type: ignore[method-assign]
    return backend
