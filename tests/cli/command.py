"""Calling the command in this process, and small traces to call it on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from trainmaster.cli.main import main

TWO_JOBS = "submit_s,gpus,work\n0,4,100\n10,4,20\n"
BUSY = "submit_s,gpus,work,user,limit_s\n" + "".join(f"{10 * i},{1 + i % 4},{50 + 97 * i % 400},u{i % 3},{600}\n" for i in range(40))
VARYING = {"wall_s", "peak_rss_mib"}  # of a run: what may differ between equal commands


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def runs(self) -> list[dict[str, Any]]:
        """Of --json -, without what may differ between equal commands."""
        return [{name: value for name, value in run.items() if name not in VARYING} for run in self.json["runs"]]


class Command:
    """`trainmaster ...` in a folder of its own."""

    def __init__(self, capsys: Any) -> None:
        self.capsys = capsys

    def __call__(self, *argv: str) -> Answer:
        try:
            status = main(list(argv))
        except SystemExit as leaving:  # --help and --version, by argparse
            status = int(leaving.code or 0)
        captured = self.capsys.readouterr()
        return Answer(status, captured.out, captured.err)
