"""Tables in seconds: a second on the GPUs asked for does a second of work."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.errors import InputError
from trainmaster.workload.jobs import JobTable
from trainmaster.workload.perf.base import Allocation
from trainmaster.workload.perf.constant import Constant, ConstantModel

CLUSTER = Cluster.of([Node(gpus=8)])


def bound(*gpus: float, **columns: Any) -> tuple[JobTable, ConstantModel]:
    jobs = JobTable.build(**{"submit_s": [0] * len(gpus), "gpus": gpus, "work": [10.0] * len(gpus), **columns})
    return Constant().bind(jobs, CLUSTER)


@given(st.integers(1, 8000))
def test_the_asked_gpus_do_a_second_a_second(milli: int) -> None:
    whole, part = divmod(milli / 1000, 1)
    held = tuple(share for share in (whole, part) if share)

    assert bound(milli / 1000)[1].rate(0, Allocation(tuple(range(len(held))), held, ""), 0.0, ()) == (1.0, math.inf)


def test_fewer_or_more_gpus_than_asked_count_in_proportion() -> None:
    _, model = bound(4)

    assert model.rate(0, Allocation((0,), (2.0,), ""), 0.0, ())[0] == 0.5
    assert model.rate(0, Allocation((0, 1), (4.0, 4.0), ""), 0.0, ())[0] == 2.0


def test_cpus_alone_run_at_full_speed() -> None:
    assert bound(0, cpus=[2.0])[1].rate(0, Allocation((), (), ""), 0.0, ()) == (1.0, math.inf)


def test_every_type_is_as_fast() -> None:
    jobs, model = bound(1, 2)

    assert model.rates_by_type(jobs, ["v100", "k80"]).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("columns", [{"work": [math.nan]}, {"work_in_steps": True}])
def test_work_that_is_not_in_seconds_asks_for_profiles(columns: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"job 0: its work is not in seconds; give .* --profiles PATH"):
        bound(1, **columns)
