"""`#SBATCH` lines, as sbatch reads them: at the beginning of a line, before the first command, words quoted as in a shell.

A `#SBATCH` line further down is not read by sbatch either; we say so.
"""

from __future__ import annotations

import re
import shlex

from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError
from trainmaster.live.submission.options import AS_SBATCH, split, tell
from trainmaster.live.submission.request import Asked

MARK = "#SBATCH"
MOST_CHARACTERS = 4 << 20  # as sbatch: 4 MiB
_OTHERS = re.compile(r"#(PBS|BSUB|COBALT|FLUX|\$)\s")


def told_by(text: str, where: str) -> Asked:
    """What a script asks for; nothing, if it has no such lines."""
    asked, in_head, others = Asked(), True, None
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith(MARK) and (len(line) == len(MARK) or line[len(MARK)].isspace()):
            if in_head:
                _tell_line(asked, line[len(MARK) :], f"{where}:{number}: ")
            else:
                asked.note(f"{where}:{number}: #SBATCH after the first command is not read, as sbatch does not read it either")
        elif line.strip() and not line.lstrip().startswith("#"):
            in_head = False
        elif in_head and (match := _OTHERS.match(line)):
            others = others or (number, match[1])
    if others is not None:
        asked.note(f"{where}:{others[0]}: lines of #{others[1]} are not read here; #SBATCH lines are")
    return asked


def _tell_line(asked: Asked, line: str, prefix: str) -> None:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        raise InputError(f"{prefix}{quoted(line.strip())}: a quotation that does not end") from None
    if words == ["hetjob"] or words == ["packjob"]:
        raise InputError(f"{prefix}{words[0]}: a job of unlike parts is not known here; submit each part, with --dependency after:ID")
    try:
        found, rest = split(words, AS_SBATCH)
    except InputError as error:
        raise InputError(f"{prefix}{error}") from None
    if rest:
        raise InputError(f"{prefix}{quoted(rest[0])} belongs to no option")
    tell(asked, found, prefix)
