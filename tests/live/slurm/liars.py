"""Processes of users that lie: site mode without Slurm and without sudo."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainmaster.live.backends.slurm_agent import Hello, Word
from trainmaster.live.backends.slurm_users import Agent, Mark, SlurmAsUsers


def program(tmp_path: Path, script: str) -> list[str]:
    path = tmp_path / "program.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path)]


def liar(tmp_path: Path, *lines: str) -> list[str]:
    """A process that says so and waits."""
    return program(tmp_path, "\n".join([*(f"echo '{line}'" for line in lines), "cat > /dev/null"]))


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
    said, replied = json.dumps(asdict(Word())), json.dumps({"replies": [{"id": 0, **reply}] * 2}).replace('"id": 0', '"id": \'"$id"\'')
    each = f"id=${{asked#*:}}; id=${{id%%,*}}; echo '{replied}'"
    backend = site_of(tmp_path, program(tmp_path, f"echo '{said}'\nread hello\nwhile read asked; do {each}; done"))
    backend._check_account = lambda user: None  # type: ignore[method-assign]
    return backend
