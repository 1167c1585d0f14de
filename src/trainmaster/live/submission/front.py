"""What was put on a command line, made into the draft of a job: a command after `--`, a batch script, or a YAML file."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from trainmaster.cluster.wording import quoted
from trainmaster.errors import InputError
from trainmaster.live.submission import script
from trainmaster.live.submission.request import Asked, Context, Draft, draft

COMMAND = "a command goes after `--`: trainmaster submit -- python train.py"
MOST_BYTES = 4 << 20


def of_command(words: Sequence[str], flags: Asked, context: Context) -> Draft:
    """`-- python train.py`; one word with spaces, as people quote it, is for a shell."""
    if not words or not words[0].strip():
        raise InputError(f"no command; {COMMAND}")
    asked = Asked()
    if len(words) == 1 and re.search(r"\s", words[0]):
        asked.tell("script", f"#!/bin/sh\n{words[0]}\n", "the command")
        name = words[0].split()[0]
    else:
        asked.tell("command", list(words), "the command")
        name = words[0]
    return _named(flags.over(asked), name, context)


def of_file(name: str, arguments: Sequence[str], flags: Asked, context: Context) -> Draft:
    text = read(name)
    if Path(name).suffix.lower() in (".yaml", ".yml"):
        from trainmaster.live.submission import job_file  # PyYAML, which the other forms do without

        if arguments:
            raise InputError(f"{quoted(arguments[0])}: a YAML file takes no arguments; options go before it")
        return _named(flags.over(job_file.told_by(text, name)), Path(name).stem, context)
    return of_script(text, name, arguments, flags, context)


def of_script(text: str, name: str, arguments: Sequence[str], flags: Asked, context: Context) -> Draft:
    """A batch script, with its `#SBATCH` lines."""
    if not text.startswith("#!"):
        raise InputError(f"{name}: has no #! line, so it is not known what runs it; e.g. #!/bin/bash, and {COMMAND}")
    asked = script.told_by(text, name)
    asked.tell("script", text, name)
    if "ranks" not in asked:
        asked.tell("ranks", "batch", name)
    if arguments:
        asked.tell("script_args", list(arguments), name)
    return _named(flags.over(asked), name, context)


def read(name: str) -> str:
    """Text of a file that someone names: a regular one, and of a bounded size."""
    try:
        with open(name, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{name}: is not a file; {COMMAND}")
            data = file.read(MOST_BYTES + 1)
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; give a script, a YAML file, or {COMMAND}") from None
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}; give a script or a YAML file; {COMMAND}") from None
    except ValueError:  # a NUL
        raise InputError(f"{quoted(name)} is not the name of a file; {COMMAND}") from None
    return text_of(data, name)


def text_of(data: bytes, name: str) -> str:
    if len(data) > MOST_BYTES:
        raise InputError(f"{name}: larger than {MOST_BYTES >> 20} MiB")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InputError(f"{name}: is not UTF-8 text; a program goes after `--`: trainmaster submit -- ./{Path(name).name}") from None
    if "\0" in text:
        raise InputError(f"{name}: holds a NUL, so it is no script; a program goes after `--`")
    if "\r\n" in text.partition("\n\n")[0] and text.startswith("#!"):
        raise InputError(f"{name}: lines end as on Windows, and no shell runs that; turn them with dos2unix")
    return text


def _named(asked: Asked, name: str, context: Context) -> Draft:
    if "name" not in asked:
        plain = "".join(character for character in os.path.basename(name.rstrip("/")) if character.isprintable() and character != "\\")
        asked.tell("name", plain[:200] or "job", name)
    return draft(asked, context)
