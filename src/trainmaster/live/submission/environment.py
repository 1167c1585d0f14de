"""The environment a job takes along, as sbatch does it: all of it, unless `--export` says which; without what belongs to another job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError

# Where the controller is and who submits are no business of the job's store; what names the job around us would be wrong in the new one.
LEFT = {"TRAINMASTER_TOKEN", "TRAINMASTER_URL", "TRAINMASTER_STATE"}
OF_A_JOB = re.compile(r"SLURM_.*|SLURMD_.*|TRAINMASTER_(JOB_ID|ATTEMPT|CONTROL|CHECKPOINT_DIR|RESUMES)|BASH_FUNC_.*")
ALWAYS = ("HOME", "USER", "LOGNAME", "PATH", "SHELL", "LANG", "TERM")  # of `--export=NONE` too: a login shell would set them
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    everything: bool = True
    names: tuple[str, ...] = ()  # these of the environment
    values: Mapping[str, str] = field(default_factory=dict)  # and these, set here


def export(text: str, at: str) -> Export:
    """`ALL`, `NONE`, `NIL`, `A,B=1` (those alone), `ALL,A=1`."""
    everything, names, values = False, [], {}
    for piece in _pieces(text):
        name, equals, value = piece.partition("=")
        if not equals and name.upper() in ("ALL", "NONE", "NIL"):
            everything = everything or name.upper() == "ALL"
        elif not _NAME.fullmatch(name):
            raise InputError(f"{at}: {quoted(name)} is not the name of a variable; e.g. ALL,EPOCHS=3")
        elif equals:
            values[name] = value
        else:
            names.append(name)
    return Export(everything=everything, names=tuple(names), values=values)


def assignment(text: str, at: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise InputError(f"{at}: {quoted(text)} is not NAME=VALUE")
    return name, value


def captured(environ: Mapping[str, str], asked: Export) -> dict[str, str]:
    kept = {name for name in environ if _text(name) is not None} if asked.everything else {*asked.names, *ALWAYS}
    env = {name: _text(value) for name, value in environ.items() if name in kept and name not in LEFT and not OF_A_JOB.fullmatch(name)}
    return {name: value for name, value in env.items() if value is not None} | dict(asked.values)


def _pieces(text: str) -> list[str]:
    """Split at commas outside quotes: `A='1,2',B=3`. A quote that nothing closes is a letter: `A=it's`."""
    return [re.sub(r"""(['"])(.*?)\1""", r"\2", piece) for piece in re.findall(r"""(?:'[^']*'|"[^"]*"|[^,])+""", text)]


def _text(value: str) -> str | None:
    """Bytes that are no text cannot be sent; such a variable stays behind."""
    return value if value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value) else None
