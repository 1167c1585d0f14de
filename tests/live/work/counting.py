"""A job of the library without PyTorch: its state is a number.   counting.py FOLDER STEPS PACE_S [dies | hangs]

In its first attempt it may end badly in step 26, when it has reported 25 steps and saved the twentieth."""

import os
import signal
import sys
import time
from pathlib import Path

import trainmaster.train as tm

folder, steps, pace_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
trouble = sys.argv[4] if len(sys.argv) > 4 and tm.attempt() == 1 else None
state = {"sum": 0}


def load(place: Path) -> None:
    state["sum"] = int((place / "sum").read_text())


tm.checkpoint(lambda place: (place / "sum").write_text(str(state["sum"])), load, every_steps=10)
with open(folder / "steps", "a", buffering=1) as trace:
    for step in tm.steps(steps):
        time.sleep(1.1 if trouble and step == 24 else pace_s)  # long enough for the next report
        if trouble and step == 25:
            (folder / trouble).touch()
            if trouble == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        state["sum"] += step
        trace.write(f"{tm.attempt()} {step + 1}\n")
assert state["sum"] == sum(range(steps))
