"""The Slurm backend against answers of Slurm's that a test makes up: what a real one gives too seldom to be waited for."""

from __future__ import annotations

import getpass
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from live.backends.harness import PATIENCE_S, wait_until
from live.slurm.test_submissions import NODES, PARTITIONS
from trainmaster.errors import BackendError
from trainmaster.live.backends import slurm
from trainmaster.live.backends.base import Attempt, NodeShare, Observation, Seen
from trainmaster.live.backends.slurm import SlurmBackend
from trainmaster.live.backends.slurm_commands import Submission
from trainmaster.live.backends.slurm_parsing import Row
from trainmaster.live.spec import JobSpec


class Answers:
    """In place of Slurm's commands."""

    def __init__(self, launch: str) -> None:
        self.launch = launch
        self.up = True
        self.rows: list[Row] = []
        self.submitted: list[str] = []
        self.refuses: Callable[[Submission], bool] = lambda asked: False
        self.looks = 0
        self.shows = True
        self.ended = ""
        self.submitting: Callable[[], None] = lambda: None

    def submit(self, asked: Submission) -> int:
        self.submitted.append(asked.name)
        self.submitting()
        if not self.up or self.refuses(asked):
            raise BackendError("sbatch: Unable to contact slurm controller" if not self.up else "sbatch: no")
        self.rows.append(Row(id=len(self.submitted), state="PENDING", nodes=(), reason="None", name=asked.name))
        return len(self.submitted)

    def jobs(self) -> list[Row]:
        self.looks += 1
        if not self.up:
            raise BackendError("squeue: Unable to contact slurm controller")
        return list(self.rows) if self.shows else []

    def cancel(self, ids: Sequence[int]) -> None:
        self.rows = [row for row in self.rows if row.id not in ids]

    def nodes(self) -> str:
        return NODES

    def partitions(self) -> str:
        return PARTITIONS

    def how_it_ended(self, id: int, name: str) -> str:
        return self.ended


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmBackend]:
    monkeypatch.setattr(slurm, "POLL_S", 0.02)
    made = SlurmBackend(tmp_path)
    made.slurm = Answers(f"{tmp_path}/launch")  # type: ignore[assignment]
    made.open(lambda: None)
    yield made
    made.close()


def answers(backend: SlurmBackend) -> Any:
    return backend.slurm


def start(backend: SlurmBackend, job: int) -> None:
    spec, shares = JobSpec(command=("true",)), (NodeShare(node="a1", gpus=1),)
    backend.start(Attempt(job=job, attempt=1, name="net", user=getpass.getuser(), spec=spec, shares=shares))


def seen(backend: SlurmBackend, job: int) -> Observation:
    return next(one for one in backend.observe() if one.job == job)


def test_a_submission_that_fails_twice_while_slurmctld_answers_is_refused_in_its_words(backend: SlurmBackend) -> None:
    answers(backend).refuses = lambda asked: True
    start(backend, 1)
    wait_until(lambda: seen(backend, 1).seen is Seen.REFUSED)
    assert (seen(backend, 1).message, len(answers(backend).submitted)) == ("sbatch: no", 2)


def test_a_submission_is_not_refused_because_slurmctld_went_away_twice(backend: SlurmBackend) -> None:
    slurmctld, away = answers(backend), iter([True, True])

    def goes_away() -> None:
        slurmctld.up = not next(away, False)

    slurmctld.submitting = goes_away
    start(backend, 1)
    for times in (1, 2):
        wait_until(lambda times=times: not slurmctld.up and len(slurmctld.submitted) == times)  # type: ignore[misc]
        looks = slurmctld.looks
        wait_until(lambda looks=looks: slurmctld.looks > looks + 1)  # type: ignore[misc]
        slurmctld.up = True
    wait_until(lambda: bool(slurmctld.rows))
    assert seen(backend, 1).seen is Seen.STARTING and len(slurmctld.submitted) == 3


def test_while_slurmctld_is_away_one_submission_hangs_and_not_every_one_that_waits(backend: SlurmBackend) -> None:
    """sbatch gives up after 9 s, and nothing else would be asked meanwhile."""
    slurmctld = answers(backend)
    slurmctld.up = False
    with backend._work:  # all are there when the thread looks
        backend._trouble = ""
        for job in (1, 2, 3):
            start(backend, job)
        slurmctld.submitted.clear()
    wait_until(lambda: len(slurmctld.submitted) == 1)
    looks = slurmctld.looks
    wait_until(lambda: slurmctld.looks > looks + 2)
    assert len(slurmctld.submitted) == 1
    slurmctld.up = True
    wait_until(lambda: len(slurmctld.rows) == 3)


def test_what_was_stopped_while_another_was_submitted_is_not_submitted(backend: SlurmBackend) -> None:
    slurmctld, hangs, goes_on = answers(backend), threading.Event(), threading.Event()
    with backend._work:  # both are there when the thread looks
        for job in (1, 2):
            start(backend, job)

        def hang() -> None:
            hangs.set()
            goes_on.wait(PATIENCE_S)

        slurmctld.submitting = hang
    assert hangs.wait(PATIENCE_S)
    backend.stop(2, 1, grace_s=0, reason="cancel")
    goes_on.set()
    looks = slurmctld.looks
    wait_until(lambda: slurmctld.looks > looks + 1)
    assert len(slurmctld.submitted) == 1


def test_a_file_of_nobodys_among_the_attempts_does_not_keep_a_controller_from_starting(backend: SlurmBackend, tmp_path: Path) -> None:
    """NFS gives a file that is removed while it is open a name of its own."""
    start(backend, 1)
    backend.drop()
    (tmp_path / "live" / ".nfs000000000001").write_bytes(b"")
    after = SlurmBackend(tmp_path)
    after.slurm = backend.slurm
    after.open(lambda: None)
    assert [one.job for one in after.observe()] == [1]
    after.close()


def test_an_answer_of_squeue_s_without_jobs_that_are_there_ends_none_of_them(backend: SlurmBackend) -> None:
    slurmctld = answers(backend)
    start(backend, 1)
    wait_until(lambda: bool(slurmctld.rows))
    slurmctld.ended, slurmctld.shows = "RUNNING", False
    looks = slurmctld.looks
    wait_until(lambda: slurmctld.looks > looks + 2)
    assert seen(backend, 1).seen is Seen.STARTING

    slurmctld.ended = "NODE_FAIL (None)"
    wait_until(lambda: seen(backend, 1).seen is Seen.LOST)
    assert seen(backend, 1).message == "Slurm has it no more: NODE_FAIL (None)"
