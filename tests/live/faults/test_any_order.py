"""The controller on the simulated machine, under random people, jobs, nodes, stores and deaths: nothing lost, nothing run twice.

After every turn: what it remembers is what is committed; the engine's ledger is what attempts hold; no node gives more than it has.
At the end: all faults are over, and every job that was accepted has ended, once, by transitions that the table of states allows.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from live.faults.site import run


@pytest.mark.parametrize("seed", range(5))
def test_a_controller_that_dies_anywhere_loses_nothing(tmp_path: Path, seed: int) -> None:
    run(tmp_path, seed, steps=25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1_000, 1_150))
def test_a_controller_that_dies_anywhere_loses_nothing_for_long(tmp_path: Path, seed: int) -> None:
    site = run(tmp_path, seed, steps=150)
    print(f"seed {seed}: {site.steps} turns, {site.crashes} deaths")


@pytest.mark.parametrize("seed", [2_000, 2_001, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2_002, 2_010))])
def test_the_same_on_postgresql(tmp_path: Path, postgres, seed: int) -> None:
    run(tmp_path, seed, steps=60, url=postgres.database(f"faults_{seed}"))
