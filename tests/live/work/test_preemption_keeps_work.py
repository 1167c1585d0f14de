"""Jobs that train, stopped for others at random instants: they end with the weights of the run left alone, and every step is done once."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from .cluster import Cluster, needs

needs("torch")

TRAINING = Path(__file__).parent / "training.py"
STEPS_AN_EPOCH, EPOCHS = 60, 4
STEPS = EPOCHS * STEPS_AN_EPOCH
MARGIN_STEPS = 2  # DESIGN section 8: the step published ahead
IMPORTS_S = 4.0  # about as long as the job needs to get to its first step
TRAINED_S = 900.0  # to its end, on a machine that is busy with other things too
GANG = 4


def start(up: Cluster, ranks: int, folder: Path, steps: int, pace_s: float) -> int:
    folder.mkdir()
    gang = ["--gpus", str(ranks), "--ranks", "gpu"] if ranks > 1 else []
    return up.submit(*gang, "--", "python", str(TRAINING), str(folder), str(steps), str(pace_s))


def digest(up: Cluster, id: int) -> str:
    return re.findall(r"sha256 (\w{64})", up.output(id))[0]


@pytest.fixture(scope="module")
def left_alone(up: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """The weights of a run that nobody stops, by ranks and steps an epoch."""
    known: dict[tuple[int, int], str] = {}

    def weights(ranks: int, steps: int = STEPS_AN_EPOCH) -> str:
        if (ranks, steps) not in known:
            id = start(up, ranks, tmp_path_factory.mktemp("alone") / "trace", steps, 0.0)
            up.succeeded(id, TRAINED_S)
            known[ranks, steps] = digest(up, id)
        return known[ranks, steps]

    return weights


# ------------------------------------------------------------------------------------------------ ways to be stopped


def for_another(up: Cluster, id: int, attempt: int) -> None:
    """A short job with a higher priority wants the whole machine. The policy may stop this one once it has registered a checkpoint."""
    up.until(lambda: up.job(id)["preemptible"])
    winner = up.submit("--gpus", "4", "--priority", "10", "--", "true")
    up.succeeded(winner)
    assert up.job(id)["attempts"] >= attempt, up.tell(id)


def requeued(up: Cluster, id: int, attempt: int) -> None:
    up.client.requeue([id])


def suspended(up: Cluster, id: int, attempt: int) -> None:
    up.client.suspend([id])
    up.until(lambda: up.job(id)["state"] == "SUSPENDED")
    assert up.client.nodes()[0]["free_gpus"] == 4
    up.client.resume([id])


WAYS = (for_another, requeued, suspended)


def stop_at_random(up: Cluster, id: int, times: int, steps_between: float, pace_s: float, chance: np.random.Generator) -> None:
    """Mostly between or within steps; now and then while it starts."""
    for attempt in range(1, times + 1):
        up.runs(id, attempt)
        stop = WAYS[int(chance.integers(len(WAYS)))]
        if chance.random() < 0.15:
            time.sleep(chance.uniform(0.0, IMPORTS_S))
        else:
            first = up.until(lambda attempt=attempt: up.steps(id, attempt))
            wanted = first + int(chance.integers(0, max(1, 2 * steps_between)))
            up.until(lambda attempt=attempt, wanted=wanted: up.steps(id, attempt) >= wanted, every_s=0.002)
            time.sleep(chance.uniform(0.0, 2 * pace_s))
        stop(up, id, attempt)


def trained_as_if_left_alone(up: Cluster, ranks: int, id: int, folder: Path, stops: int, weights: str, steps: int) -> None:
    job = up.succeeded(id, TRAINED_S)
    assert digest(up, id) == weights, up.tell(id)
    assert job["attempts"] == stops + 1, up.tell(id)
    assert job["lost_steps"] == 0 and job["step"] == EPOCHS * steps, up.tell(id)
    for rank in range(ranks):
        lines = [tuple(map(int, line.split())) for line in (folder / f"trace.{rank}").read_text().splitlines()]
        assert [step for _, step, _ in lines] == list(range(1, EPOCHS * steps + 1)), up.tell(id)  # every step once, none over again
        run_on = Counter(attempt for attempt, _, asked in lines if asked)
        most = 1 + (MARGIN_STEPS + 1 if ranks > 1 else 0)  # a rank may be one ahead of the one that publishes
        assert all(steps <= most for steps in run_on.values()), (rank, run_on)
    for before, after in pairwise(up.client.attempts(id)):
        assert before["end_s"] <= after["claimed_s"]


def stopped(up: Cluster, folder: Path, ranks: int, times: int, weights: str, seed: int, steps: int = STEPS_AN_EPOCH) -> None:
    pace_s = 0.02
    id = start(up, ranks, folder, steps, pace_s)
    stop_at_random(up, id, times, EPOCHS * steps / (times + 2) / 2, pace_s, np.random.default_rng(seed))
    trained_as_if_left_alone(up, ranks, id, folder, times, weights, steps)


@pytest.mark.parametrize("ranks, times", [(1, 3), (GANG, 2)], ids=["alone", "gang of four"])
def test_a_job_stopped_at_random_instants_ends_as_if_left_alone(up: Cluster, tmp_path: Path, left_alone, ranks: int, times: int) -> None:
    stopped(up, tmp_path / "trace", ranks, times, left_alone(ranks), seed=ranks)


@pytest.mark.slow
@pytest.mark.sample
def test_five_stops_of_a_sample_lose_nothing(up: Cluster, tmp_path: Path, left_alone, seed: int) -> None:
    stopped(up, tmp_path / "trace", 1, 5, left_alone(1), seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, GANG], ids=["alone", "gang of four"])
def test_fifty_stops_at_random_instants_lose_nothing(up: Cluster, tmp_path: Path, left_alone, ranks: int) -> None:
    stopped(up, tmp_path / "trace", ranks, 50, left_alone(ranks, 200), seed=50 + ranks, steps=200)
