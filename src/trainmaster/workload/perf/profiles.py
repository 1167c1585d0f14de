"""`--profiles PATH`: which measured performance data it is, told by content.

    a JSON file of accelerators and job types    Gavel's throughputs            gavel.py
    a folder of application folders              Pollux's and Sia's placements  placements.py
    a JSON file with "speeds"                    relative speeds by type        speeds.py
    the word catalogue                           those that are built in        catalogue.py
    a folder of tables of sizes                  ElasticFlow's scaling curves   scaling.py

Synergy's JSON is recognised, and refused until its policies are here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainmaster.errors import InputError
from trainmaster.workload.perf.base import Profiles
from trainmaster.workload.perf.catalogue import catalogue
from trainmaster.workload.perf.gavel import Gavel, looks_like_gavel
from trainmaster.workload.perf.placements import MeasuredPlacements, is_application
from trainmaster.workload.perf.reading import read_json
from trainmaster.workload.perf.scaling import ScalingTables
from trainmaster.workload.perf.speeds import Speeds, looks_like_speeds

CATALOGUE = "catalogue"
KNOWN = "known are Gavel's simulation_throughputs.json, a folder of Pollux/Sia application folders and one of ElasticFlow tables"


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
    if tables := ScalingTables.of(path):
        return tables
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


def _looks_like_synergy(data: Any) -> bool:
    models = data.get("models") if isinstance(data, dict) else None
    return isinstance(models, dict) and any(isinstance(model, dict) and "tput" in model for model in models.values())
