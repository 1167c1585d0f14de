"""Slurm's factors by the formulas of its documentation, and its slurm.conf, small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainmaster.api.entrants import entrants_of
from trainmaster.errors import ParamError
from trainmaster.policies.registry import make_policy
from trainmaster.policies.slurm import Params, Slurm
from trainmaster.policies.slurm_conf import MOST_BYTES, SlurmConf, parse_conf, parse_partitions, time_s
from trainmaster.policies.slurm_priority import Sizes, age, decayed, fair_share, job_size, relative

# ------------------------------------------------------------------------------------------------- factors


def test_age_grows_to_one_at_the_longest_age():
    assert age(np.array([-5.0, 0.0, 3600.0, 10_000.0]), 7200.0).tolist() == [0, 0, 0.5, 1]


def test_a_job_of_half_the_nodes_and_a_quarter_of_the_cpus_has_a_size_of_three_eighths():
    sizes = Sizes(nodes=np.array([2.0]), cpus=np.array([8.0]), limit_min=np.array([10.0]), all_nodes=4.0, all_cpus=32.0)

    assert job_size(sizes, favor_small=False, relative_to_time=False).tolist() == [0.375]  # (2/4 + 8/32) / 2
    assert job_size(sizes, favor_small=True, relative_to_time=False).tolist() == [0.625]
    assert job_size(sizes, favor_small=False, relative_to_time=True).tolist() == [0.05]  # 16 CPUs on two nodes, of 32, by 10 minutes


def test_partition_and_qos_factors_are_relative_to_the_largest():
    assert relative({"main": 10.0, "urgent": 40.0}, ["urgent", "main", "elsewhere"], 1.0).tolist() == [1, 0.25, 0.025]
    assert relative({}, ["normal"], 0.0).tolist() == [0]


def test_half_of_the_usage_is_left_after_a_half_life():
    assert decayed(np.array([100.0]), np.array([0.0]), 3600.0, 3600.0)[0] == pytest.approx(50)
    assert decayed(np.array([100.0]), np.array([2.0]), 10.0, 0.0)[0] == 120


@given(st.floats(0, 1e6), st.floats(0, 100), st.floats(0, 1e5), st.floats(0, 1e5))
def test_usage_decays_the_same_in_one_step_and_in_two(usage, rate, first_s, then_s):
    def by(passed_s: float, before: np.ndarray) -> np.ndarray:
        return decayed(before, np.array([rate]), passed_s, 7200.0)

    assert by(then_s, by(first_s, np.array([usage])))[0] == pytest.approx(by(first_s + then_s, np.array([usage]))[0], abs=1e-6)


# ------------------------------------------------------------------------------------------------- fair share

LAB = [("bio", "ann"), ("bio", "bob"), ("chem", "cat")]


def test_classic_fair_share_halves_when_use_equals_the_share():
    alone = fair_share([("a", "x"), ("b", "y")], np.array([50.0, 50.0]), {}, 1.0, tree=False)
    greedy = fair_share([("a", "x"), ("b", "y")], np.array([100.0, 0.0]), {}, 1.0, tree=False)

    assert alone.tolist() == [0.5, 0.5]  # U = S = 1/2
    assert greedy.tolist() == [0.25, 1.0]  # U = 1, S = 1/2: 2^-2; the other has used nothing


def test_classic_fair_share_counts_part_of_the_account_as_its_users_own():
    """bio has 3 of 4 shares and two equal users; ann used 60, bob 0, cat 40 of 100."""
    factor = fair_share(LAB, np.array([60.0, 0.0, 40.0]), {"bio": 3.0}, 1.0, tree=False)

    # ann: S = 3/8, U_E = 0.6 + (0.6 - 0.6) / 2; bob: U_E = 0 + (0.6 - 0) / 2; cat: S = 1/4, U_E = 0.4
    assert factor == pytest.approx([2 ** (-0.6 / 0.375), 2 ** (-0.3 / 0.375), 2 ** (-0.4 / 0.25)])


def test_a_dampening_factor_of_two_takes_the_root():
    once, damped = (fair_share(LAB, np.array([60.0, 0.0, 40.0]), {}, d, tree=False) for d in (1.0, 2.0))

    assert damped == pytest.approx(np.sqrt(once))


def test_fair_tree_ranks_accounts_before_their_users():
    """bio: S/U = (1/2) / (60/100); chem: (1/2) / (40/100), so chem's user comes first, though bob has used nothing."""
    factor = fair_share(LAB, np.array([60.0, 0.0, 40.0]), {}, 1.0, tree=True)

    assert factor.tolist() == [1 / 3, 2 / 3, 1.0]  # cat, bob, ann


def test_fair_tree_gives_equals_one_rank_and_treats_equal_accounts_as_one():
    who = [("a", "u"), ("a", "v"), ("b", "w"), ("b", "x")]
    factor = fair_share(who, np.array([10.0, 30.0, 30.0, 10.0]), {}, 1.0, tree=True)

    assert factor.tolist() == [1.0, 0.5, 0.5, 1.0]  # both accounts used 40: their users are ranked together


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8), st.booleans())
def test_who_uses_more_never_has_the_larger_factor(usage, tree):
    who = [("one", f"u{i}") for i in range(len(usage))]
    factor = fair_share(who, np.array(usage), {}, 1.0, tree)

    order = np.argsort(usage)
    assert (np.diff(factor[order]) <= 1e-12).all()
    assert ((factor >= 0) & (factor <= 1)).all()


# ------------------------------------------------------------------------------------------------- slurm.conf

CONF = b"""\
ClusterName=lab   # the whole of it
SlurmctldHost=head
prioritytype=priority/multifactor
PriorityWeightAge=1000
PriorityWeightFairShare=10000
PriorityWeightTRES=CPU=1000,GRES/gpu=3000,License/x=5
PriorityMaxAge=1-0
PriorityDecayHalfLife=14-0
PriorityFavorSmall=YES
PriorityFlags=NO_FAIR_TREE,MAX_TRES
SchedulerType=sched/backfill
SchedulerParameters=bf_window=2880,\\
bf_interval=60,default_queue_depth=500,bf_continue,defer
NodeName=n[1-4] Gres=gpu:8
PartitionName=DEFAULT MaxTime=2-0 State=UP
PartitionName=gpu Nodes=n[1,4] PriorityJobFactor=10 PriorityTier=2 DefaultTime=1:00:00
PartitionName=debug Nodes=n1 MaxTime=30
"""


def read(data: bytes) -> SlurmConf:
    return parse_conf(data, "slurm.conf", "--set slurm.conf")


def test_a_sites_slurm_conf_sets_the_parameters_that_it_names():
    conf = read(CONF)
    policy, _ = make_policy(Slurm, {"conf": "x", "bf_interval": "30"}, "slurm", {SlurmConf: lambda path, where: conf})

    p = policy.params
    assert (p.PriorityWeightAge, p.PriorityWeightFairshare, p.PriorityMaxAge, p.PriorityFavorSmall) == (1000, 10_000, "1-0", True)
    assert (p.PriorityWeightTRES, p.PriorityFlags) == (("CPU=1000", "GRES/gpu=3000"), ("NO_FAIR_TREE",))
    assert (p.bf_window, p.default_queue_depth, p.bf_interval) == (2880, 500, 30)  # what is set by name wins over the file
    assert (p.defer, p.batch_sched_delay) == (True, 3)
    assert policy.partitions["gpu"].tier == 2 and policy.partitions["gpu"].job_factor == 10
    assert (policy.partitions["gpu"].default_s, policy.partitions["gpu"].most_s) == (3600, 2 * 86_400)
    assert policy.partitions["debug"].most_s == 1800


def test_what_says_nothing_here_is_counted():
    ignored = read(CONF).ignored

    assert {"ClusterName", "SlurmctldHost", "SchedulerParameters bf_continue", "PriorityFlags MAX_TRES", "PriorityWeightTRES License/x",
            "PartitionName Nodes"} <= set(ignored)  # fmt: skip
    assert ignored["PartitionName Nodes"] == 2


@pytest.mark.parametrize(("line", "problem"), [
    (b"Include nodes.conf", "slurm.conf:2: Include: only one file is read"),
    (b"PriorityWeightAge=lots", "slurm.conf:2: PriorityWeightAge: 'lots' is not a number"),
    (b"PriorityMaxAge=soon", "slurm.conf:2: PriorityMaxAge: 'soon' is not a time"),
    (b"PriorityFavorSmall=maybe", "slurm.conf:2: PriorityFavorSmall: 'maybe' is not YES or NO"),
    (b"SchedulerParameters=bf_interval=", "slurm.conf:2: bf_interval: '' is not a number"),
    (b"PartitionName=x PriorityTier=first", "slurm.conf:2: x: PriorityTier: 'first' is not a number"),
])  # fmt: skip
def test_a_line_that_cannot_be_read_is_refused_with_its_number(line, problem):
    with pytest.raises(ParamError, match=problem.replace("(", "\\(")):
        read(b"ClusterName=lab\n" + line + b"\n")


def test_what_is_no_slurm_conf_is_refused():
    with pytest.raises(ParamError, match="not one KEY=VALUE"):
        read(b"\x00\xff hello\n")
    with pytest.raises(ParamError, match="more than 4 MiB"):
        read(b"#" * (MOST_BYTES + 1))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_in_one_line(data):
    try:
        read(data)
    except ParamError as refused:
        assert "\n" not in str(refused)


@given(st.text(alphabet="PriotyTeWghAMx=,:-0123456789# \\\n\"", max_size=200))
def test_text_that_looks_like_a_slurm_conf_is_read_or_refused(text):
    try:
        conf = read(text.encode())
    except ParamError:
        return
    assert all(isinstance(name, str) for name in conf.params)


def test_the_command_line_reads_the_file(tmp_path):
    path = tmp_path / "slurm.conf"
    path.write_bytes(CONF)
    (entrant,) = entrants_of([(None, "slurm")], [f"slurm.conf={path}"])

    assert entrant.policy.params.bf_interval == 60
    with pytest.raises(ParamError, match="no such file"):
        entrants_of([(None, "slurm")], [f"slurm.conf={tmp_path / 'none'}"])


@pytest.mark.parametrize(("text", "seconds"), [
    ("30", 1800), ("1:30", 90), ("2:00:00", 7200), ("7-0", 604_800), ("1-12:30", 131_400), ("1-0:0:5", 86_405), ("UNLIMITED", np.inf),
])  # fmt: skip
def test_times_are_read_as_slurm_writes_them(text, seconds):
    assert time_s(text, "x") == seconds


@pytest.mark.parametrize("values", [
    {"bf_window": 0}, {"bf_interval": 0}, {"bf_max_job_test": 0}, {"bf_resolution": 5000}, {"default_queue_depth": 0},
    {"PriorityType": "priority/best"}, {"SchedulerType": "sched/wiki"}, {"PriorityFlags": ("MAX_TRES",)},
    {"PriorityWeightTRES": ("tape=1",)}, {"qos": ("high",)}, {"shares": ("=3",)}, {"PriorityMaxAge": "never"}, {"partitions": ("Name=x",)},
])  # fmt: skip
def test_a_value_that_slurm_would_not_take_is_refused(values):
    with pytest.raises(ParamError):
        Params(**values)


def test_default_holds_for_the_partitions_after_it():
    found = parse_partitions(("PartitionName=a", "PartitionName=DEFAULT PriorityTier=5", "PartitionName=b"), "x")

    assert (found["a"].tier, found["b"].tier) == (1, 5)
