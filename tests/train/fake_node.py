"""The node's side of the control folder, as small as it can be: it makes the folder, asks to stop, and reads the answers."""

from __future__ import annotations

import json
import mmap
import struct
import time
from pathlib import Path

STOP, SUPERSEDED = 1, 2


def flag(control: Path) -> memoryview:
    with open(control / "flag", "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 64)).cast("q")


def ask_to_stop(control: Path, reason: str = "preempt") -> None:
    (control / "stop.tmp").write_text(json.dumps({"reason": reason, "deadline_s": time.time() + 60}))
    (control / "stop.tmp").rename(control / "stop")
    flag(control)[0] = STOP


class FakeNode:
    """One attempt at a job. Attempts of the same job share `folder`, and in it the folder of checkpoints."""

    def __init__(self, folder: Path, attempt: int = 1, *, job: str = "7", margin: int = 2) -> None:
        self.checkpoints = folder / "checkpoints"
        self.control = folder / f"control.{attempt}"
        self.control.mkdir(parents=True)
        (self.control / "flag").write_bytes(struct.pack("<8q", 0, 0, margin, attempt, 0, 0, 0, 0))
        self.flag = flag(self.control)
        self.environment = {
            "TRAINMASTER_JOB_ID": job,
            "TRAINMASTER_ATTEMPT": str(attempt),
            "TRAINMASTER_CONTROL": str(self.control),
            "TRAINMASTER_CHECKPOINT_DIR": str(self.checkpoints),
            "TRAINMASTER_RESUMES": str(int(attempt > 1)),
        }

    def of_rank(self, rank: int, world: int) -> dict[str, str]:
        return {**self.environment, "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}

    def ask_to_stop(self, reason: str = "preempt") -> None:
        ask_to_stop(self.control, reason)

    def supersede(self) -> None:
        self.flag[0] = SUPERSEDED

    @property
    def stop_step(self) -> int:
        return self.flag[1]

    def read(self, name: str) -> dict | None:
        path = self.control / name
        return json.loads(path.read_text()) if path.exists() else None

    def acks(self, world: int) -> list[dict | None]:
        return [self.read(f"ack.{rank}") for rank in range(world)]
