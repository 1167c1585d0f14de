"""What `trainmaster.train` costs a training script: its import, and a step under Trainmaster. Budgets: 50 ms; 1 % of 10 ms = 100 µs."""

from __future__ import annotations

import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPORT = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import trainmaster.train
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
STEPS = """
import json, sys, time
import trainmaster.train as tm
if sys.argv[1] == "registered":
    tm.checkpoint(lambda folder: None, lambda folder: None, every_s=3600, every_steps=10**9)
def loop(items):
    a = time.perf_counter()
    for _ in items:
        pass
    return (time.perf_counter() - a) / 300_000
plain = min(loop(range(300_000)) for _ in range(3))
print(json.dumps([loop(tm.steps(300_000)) - plain for _ in range(5)]))
"""


def run(code: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    process = [sys.executable, "-c", code, *arguments]
    return subprocess.run(process, env={**os.environ, **(environment or {})}, stdout=subprocess.PIPE, text=True, check=True).stdout


def step_us(folder: str, world: int) -> list[float]:
    """A rank 0 with a checkpoint and a control folder, asked nothing."""
    control = Path(folder) / f"control{world}"
    control.mkdir()
    (control / "flag").write_bytes(struct.pack("<8q", 0, 0, 2, 1, 0, 0, 0, 0))
    environment = {"TRAINMASTER_JOB_ID": "1", "TRAINMASTER_ATTEMPT": "1", "TRAINMASTER_CONTROL": str(control),
                   "TRAINMASTER_CHECKPOINT_DIR": f"{folder}/checkpoints", "RANK": "0", "WORLD_SIZE": str(world)}  # fmt: skip
    return [1e6 * seconds for seconds in json.loads(run(STEPS, "registered", environment=environment))]


def main() -> None:
    run(IMPORT)
    imports_ms = [[1e3 * float(seconds) for seconds in run(IMPORT).split()] for _ in range(15)]
    show("import trainmaster.train", [wall for wall, _ in imports_ms], "ms", 50)
    show("the same, CPU time", [cpu for _, cpu in imports_ms], "ms", 50)  # what a busy machine does not change
    with tempfile.TemporaryDirectory() as folder:
        show("a step, outside Trainmaster", [1e6 * seconds for seconds in json.loads(run(STEPS, "plain"))], "µs", 100)
        show("a step, alone", step_us(folder, 1), "µs", 100)
        show("a step, rank 0 of 4", step_us(folder, 4), "µs", 100)


def show(what: str, values: list[float], unit: str, budget: float) -> None:
    median = statistics.median(values)
    print(f"{what:32}min {min(values):7.2f}  median {median:7.2f}  max {max(values):7.2f} {unit}   budget {budget} {unit}: "
          f"{'met' if median <= budget else 'NOT MET'}", flush=True)  # fmt: skip


if __name__ == "__main__":
    begin = time.perf_counter()
    main()
    print(f"({time.perf_counter() - begin:.0f} s)")
