"""Parameters of policies that are files: opened here, for whoever makes a policy from words; said without their figures."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from trainmaster.errors import ParamError
from trainmaster.policies.base import ParamsFile, Samples
from trainmaster.policies.slurm_conf import MOST_BYTES, SlurmConf, parse_conf
from trainmaster.workload.traces.source import Source

SAMPLES_COLUMN = "duration"


def read_samples(path: str, where: str) -> Samples:
    """A CSV with a column `duration` of numbers that are not negative; `where` is the flag, for the message."""
    data = _bytes(path, where)
    rows = Source(path, io.BytesIO(data)).csv((SAMPLES_COLUMN,))
    values = tuple(rows.floats(SAMPLES_COLUMN, at_least=0).tolist())
    assert values and all(map(math.isfinite, values))  # the reader refuses the rest
    return Samples(values=values, path=path, sha256=hashlib.sha256(data).hexdigest())


def read_slurm_conf(path: str, where: str) -> SlurmConf:
    return parse_conf(_bytes(path, where, MOST_BYTES + 1), path, where)


READERS = {Samples: read_samples, SlurmConf: read_slurm_conf}


def described(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for JSON: a file of samples is its path and SHA-256, not its figures."""
    return {name: _described(value) for name, value in params.items()}


def _described(value: Any) -> Any:
    if isinstance(value, Samples):
        return {"path": value.path, "sha256": value.sha256, "values": len(value.values)}
    if isinstance(value, ParamsFile):
        return {"path": value.path, "sha256": value.sha256, "ignored": sum(value.ignored.values())}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _bytes(path: str, where: str, most: int = -1) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise ParamError(f"{where}: {path}: {(error.strerror or str(error)).lower()}") from None
