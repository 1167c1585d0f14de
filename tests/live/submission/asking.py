"""Asking for jobs in tests: each front end, to a checked JobSpec."""

from __future__ import annotations

import shlex

from trainmaster.live.spec import JobSpec
from trainmaster.live.submission import front
from trainmaster.live.submission.options import OPTIONS, split, tell
from trainmaster.live.submission.request import Asked, Context, Draft

NOW_S = 1_795_000_000.0
CONTEXT = Context(workdir="/home/ana/work", environ={"HOME": "/home/ana", "PATH": "/bin"}, now_s=NOW_S)


def by_flags(flags: str, context: Context = CONTEXT) -> Draft:
    asked = Asked()
    found, rest = split(shlex.split(flags), OPTIONS)
    assert rest == []
    tell(asked, found)
    return front.of_command(["true"], asked, context)


def spec(flags: str) -> JobSpec:
    return by_flags(flags).check()


def by_script(text: str) -> Draft:
    return front.of_script(text, "train.sh", [], Asked(), CONTEXT)


def by_yaml(folder, text: str) -> Draft:
    file = folder / "job.yaml"
    file.write_text(text)
    return front.of_file(str(file), [], Asked(), CONTEXT)
