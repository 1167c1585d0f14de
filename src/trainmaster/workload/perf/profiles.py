"""`--profiles PATH`: which measured performance data it is, told by content.

    a JSON file of accelerators and job types    Gavel's throughputs            gavel.py
    a folder of application folders              Pollux's and Sia's placements  placements.py
    a JSON file with "speeds"                    relative speeds by type        speeds.py
    the word catalogue                           those that are built in        catalogue.py

ElasticFlow's tables and Synergy's JSON are recognised, and refused until their policies are here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainmaster.errors import InputError
from trainmaster.workload.perf.base import Profiles
from trainmaster.workload.perf.catalogue import catalogue
from trainmaster.workload.perf.gavel import Gavel, looks_like_gavel
from trainmaster.workload.perf.placements import MeasuredPlacements, is_application
from trainmaster.workload.perf.reading import entries, read_json
from trainmaster.workload.perf.speeds import Speeds, looks_like_speeds

CATALOGUE = "catalogue"
ELASTICFLOW_HEADER = "global_batch_size,"
KNOWN = "known are Gavel's simulation_throughputs.json and a folder of Pollux/Sia application folders"


def load_profiles(path: str | Path) -> Profiles:
    path = Path(path)
    if str(path) == CATALOGUE and not path.exists():
        return catalogue()
    return _from_folder(path) if path.is_dir() else _from_json(path)


def _from_folder(path: Path) -> Profiles:
    if is_application(path):
        raise InputError(f"{path}: the measurements of one application; give the folder above it")
    profiles = MeasuredPlacements.of(path)
    if profiles.apps:
        return profiles
    if _holds_elasticflow(path):
        raise InputError(f"{path}: ElasticFlow's throughput tables are not supported yet")
    raise InputError(f"{path}: no performance profiles in this folder; {KNOWN}")


def _from_json(path: Path) -> Profiles:
    data = read_json(path)
    if looks_like_gavel(data):
        return Gavel.of(path, data)
    if looks_like_speeds(data):
        return Speeds.of(str(path), data)
    if _looks_like_synergy(data):
        raise InputError(f"{path}: Synergy's model profiles are not supported yet")
    raise InputError(f"{path}: JSON, but no performance profile; {KNOWN}")


def _holds_elasticflow(path: Path) -> bool:
    """Tables in the folder itself (those of one GPU type), or one level down."""
    folders = [path, *(folder for folder in entries(path) if folder.is_dir())]
    tables = (table for folder in folders for table in entries(folder) if table.suffix == ".csv" and table.is_file())
    return any(_first_line(table).startswith(ELASTICFLOW_HEADER) for table in tables)


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline(200)
    except OSError:
        return ""


def _looks_like_synergy(data: Any) -> bool:
    models = data.get("models") if isinstance(data, dict) else None
    return isinstance(models, dict) and any(isinstance(model, dict) and "tput" in model for model in models.values())
