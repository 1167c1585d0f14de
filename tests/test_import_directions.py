"""The table of rooms: who may import whom, who may print, and what a policy may not touch. Read from the source, by ast."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "trainmaster"

CORE = {"cluster", "workload", "policies", "placement", "engine"}
MEASURES = {"metrics", "report", "analysis"}  # one row of the table: they may read each other
MAY_IMPORT: dict[str, set[str]] = {
    "cluster": set(),
    "workload": {"cluster"},
    "policies": {"cluster", "workload"},
    "placement": {"cluster", "workload"},
    "engine": CORE,
    **{room: {"cluster", "workload", "engine.result"} | MEASURES for room in MEASURES},
    "experiments": CORE | MEASURES,
    "train": set(),
    "sharing": {"cluster"},
    "live": CORE | {"metrics"},
    "cli": CORE | MEASURES | {"experiments", "train", "sharing", "live", "api"},
}
MAY_IMPORT["api"] = MAY_IMPORT["cli"]  # what `import trainmaster` offers beside the command: same inputs, same reach
FOR_ALL = {"errors", "__version__"}
MAY_PRINT = {"cli", "live", "train"}  # train: the job's environment is how it hears where it is, its stderr is its log
OUTSIDE = {"time", "random", "os", "socket", "secrets", "datetime", "subprocess", "threading", "urllib", "http", "requests"}
RANDOM_TYPES = {"Generator", "Philox", "SeedSequence"}  # what is built from the seed it was given

Violation = tuple[int, str]  # line, what it does


def room_of(module: str) -> str:
    """`trainmaster.engine.loop` is in the room `engine`; a module beside the rooms speaks for the whole package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in MAY_IMPORT else "api"


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, full dotted name) of everything imported anywhere in a file, for typing and inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def wrong_imports(source: str, module: str, is_package: bool = False) -> list[Violation]:
    room = room_of(module)
    allowed = MAY_IMPORT[room] | FOR_ALL | {room}
    wrong = []
    for line, name in imports(ast.parse(source), module, is_package):
        if name == "trainmaster" or name.startswith("trainmaster."):
            target = name.partition(".")[2] or "api"
            if not any(target == other or target.startswith(f"{other}.") for other in allowed):
                wrong.append((line, f"imports {name}"))
        elif room == "policies" and name.partition(".")[0] in OUTSIDE:
            wrong.append((line, f"imports {name}"))
    return wrong


def wrong_deeds(source: str, module: str) -> list[Violation]:
    room, wrong = room_of(module), []
    seeded = module.startswith("trainmaster.policies.kernels.") and "np.random.seed(seed)" in source  # numba's own, by each call
    for node in ast.walk(ast.parse(source)):
        said = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""
        if room not in MAY_PRINT and (said in {"print", "input"} or said in {"os.environ", "os.getenv", "sys.stdout", "sys.stderr"}):
            wrong.append((node.lineno, said))
        owner, _, random = said.rpartition(".")
        if room == "policies" and not seeded and owner in {"np.random", "numpy.random"} and random not in RANDOM_TYPES:
            wrong.append((node.lineno, said))
    return wrong


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_no_arrow_points_up_and_no_room_does_what_is_not_its_own(path):
    source, parts = path.read_text(), path.relative_to(SOURCE.parent).with_suffix("").parts
    module = ".".join(parts[:-1] if path.stem == "__init__" else parts)

    assert wrong_imports(source, module, path.stem == "__init__") + wrong_deeds(source, module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trainmaster.cluster.spec", "from trainmaster.workload.jobs import Job"),
        ("trainmaster.cluster.spec", "import trainmaster.workload.jobs"),
        ("trainmaster.cluster.spec", "from trainmaster import workload"),
        ("trainmaster.cluster.spec", "from ..workload import jobs"),
        ("trainmaster.policies.fifo", "def f():\n    from trainmaster.engine.loop import run"),
        ("trainmaster.policies.fifo", "from time import monotonic"),
        ("trainmaster.report.page", "from trainmaster.engine.loop import run"),
        ("trainmaster.engine.loop", "import trainmaster"),
        ("trainmaster.train.steps", "from trainmaster.cluster.cluster import Node"),
    ],
)
def test_an_arrow_that_points_up_is_seen(module, source):
    assert wrong_imports(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trainmaster.engine.loop", "from trainmaster.policies.base import View\nfrom ..cluster import cluster\nfrom . import events"),
        ("trainmaster.report.page", "from trainmaster.engine.result import RunResult\nfrom trainmaster.metrics.series import steps"),
        ("trainmaster.workload.jobs", "import time\nfrom trainmaster.errors import InputError\nfrom trainmaster import __version__"),
        ("trainmaster.cli.main", "from trainmaster.live.controller import Controller"),
    ],
)
def test_an_arrow_that_points_down_is_fine(module, source):
    assert wrong_imports(source, module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("trainmaster.engine.loop", "print(1)"),
        ("trainmaster.metrics.summary", "import os\nhome = os.environ['HOME']"),
        ("trainmaster.policies.fifo", "import numpy as np\nx = np.random.rand(3)"),
        ("trainmaster.policies.fifo", "import numpy as np\nx = np.random.default_rng()"),
    ],
)
def test_a_deed_outside_its_room_is_seen(module, source):
    assert wrong_deeds(source, module)
