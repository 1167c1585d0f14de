"""Fractions of GPUs, CPUs and memory, and accelerator types."""

from hypothesis import given
from hypothesis import strategies as st

from engine.workloads import workloads
from schedules import job, policy, prepare
from trainmaster.cluster.cluster import Cluster, Node

FIFO, GREEDY, SRTF = policy("fifo"), policy("fifo-greedy"), policy("srtf")

# ------------------------------------------------------------------------------------------------- fractions


def test_fractions_share_a_gpu_and_are_not_slowed(run):
    schedule = run([job("a", 0, 0.5, 10), job("b", 0, 0.3, 10), job("c", 0, 0.2, 10), job("d", 1, 0.1, 10)], "1x1", FIFO)

    assert schedule.held("a") == schedule.held("b") == schedule.held("c") == [(0, 10)]
    assert schedule.held("d") == [(10, 20)]


def test_a_fraction_stays_on_one_gpu(run):
    """0.4 + 0.4 are free on two GPUs: not enough for 0.6."""
    jobs = [job("a", 0, 0.6, 10), job("b", 0, 0.6, 20), job("c", 1, 0.6, 5)]

    assert run(jobs, "1x2", FIFO).held("c") == [(10, 15)]


def test_a_fraction_goes_beside_others_on_the_fullest_gpu_that_has_room(run):
    """So that whole GPUs stay whole."""
    jobs = [job("a", 0, 0.5, 100), job("b", 1, 0.7, 100), job("c", 2, 0.3, 100), job("gang", 3, 2, 10)]

    schedule = run(jobs, "1x4", FIFO)

    assert schedule.held("gang") == [(3, 13)]
    assert schedule.nodes("c") == [(0,)]


def test_a_gang_takes_no_gpu_that_is_shared(run):
    schedule = run([job("share", 0, 0.1, 10), job("gang", 1, 2, 5)], "1x2", FIFO)

    assert schedule.held("gang") == [(10, 15)]


def test_fractions_span_the_gpus_of_a_pooled_node(run):
    pooled = Cluster.of([Node(gpus=2, pooled=True)])
    jobs = [job("a", 0, 0.6, 10), job("b", 0, 0.6, 20), job("c", 1, 0.6, 5)]

    schedule = run(jobs, pooled, FIFO)

    assert schedule.held("c") == [(1, 6)]


def test_more_than_one_gpu_and_not_whole_needs_a_pooled_node(run):
    schedule = run([job("a", 0, 1.5, 10)], "1x2", FIFO)
    assert list(schedule.result.state) == ["unschedulable"]

    assert run([job("a", 0, 1.5, 10), job("b", 0, 0.5, 10)], Cluster.of([Node(gpus=2, pooled=True)]), FIFO).held("b") == [(0, 10)]


def test_a_fraction_attains_its_fraction_of_service(run):
    assert run([job("a", 0, 0.25, 40)], "1x1", FIFO).result.attained_gpu_s[0] == 10


@given(workloads(gangs=st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9, 1, 2])), st.sampled_from(["fifo-greedy", "srtf", "las"]))
def test_no_shared_gpu_gives_more_than_it_has(jobs, name):
    """GPU by GPU, not only node by node: from the engine's own log of which GPU a fraction was on."""
    simulation = prepare(jobs, "2x2", policy(name))
    a = simulation.run().allocations

    slots = simulation.state.parts["slot"][: len(a.node)]
    parts = [(a.start_s[i], a.end_s[i], a.gpu_milli[p], slots[p]) for i in range(len(a.job)) for p in range(a.offset[i], a.offset[i + 1])]
    for at_s, *_ in parts:
        now = [part for part in parts if part[0] <= at_s < part[1]]
        on_slot = {}
        for _, _, milli, slot in now:
            if slot >= 0:
                on_slot[slot] = on_slot.get(slot, 0) + milli
        assert all(milli <= 1000 for milli in on_slot.values())


# ------------------------------------------------------------------------------------------------- CPUs and memory


def test_jobs_of_cpus_alone_run_beside_gangs_and_hold_no_gpu(run):
    on = Cluster.of([Node(gpus=2, cpus=8)])

    schedule = run([job("gang", 0, 2, 10, cpus=4), job("cpus", 0, 0, 10, cpus=4), job("more", 1, 0, 10, cpus=1)], on, FIFO)

    assert schedule.held("cpus") == [(0, 10)]
    assert schedule.held("more") == [(10, 20)]
    assert schedule.result.attained_gpu_s.tolist() == [20, 0, 0]


def test_cpus_alone_go_to_the_nodes_that_declare_them(run):
    """Found by reading: they count no GPU, so the first type always has room for them."""
    on = Cluster.of([Node(gpus=2, type="v100"), Node(gpus=0, cpus=8)])

    assert run([job("cpus", 0, 0, 10, cpus=4)], on, GREEDY).nodes("cpus") == [(1,)]


def test_a_gang_is_limited_by_the_cpus_of_its_nodes(run):
    """4 GPUs with 16 CPUs want 4 CPUs a GPU; a node with 8 gives two GPUs at most."""
    schedule = run([job("gang", 0, 4, 10, cpus=16)], Cluster.of([Node(gpus=4, cpus=8)] * 2), FIFO)

    assert schedule.holdings[0].parts == ((0, 2000), (1, 2000))


def test_memory_is_counted_where_nodes_declare_it(run):
    jobs = [job(name, 0, 1, 10, memory_gib=40) for name in "abc"]

    assert run(jobs, Cluster.of([Node(gpus=4, memory_gib=100)]), FIFO).held("c") == [(10, 20)]
    assert run(jobs, Cluster.of([Node(gpus=4)]), FIFO).held("c") == [(0, 10)]


def test_cpus_of_a_gang_are_not_counted_where_no_node_declares_them(run):
    assert run([job("a", 0, 1, 10, cpus=1000)], "1x1", FIFO).held("a") == [(0, 10)]


# ------------------------------------------------------------------------------------------------- types


TYPES = Cluster.of([Node(gpus=2, type="v100"), Node(gpus=2, type="t4")])


def test_a_job_goes_to_the_types_it_accepts_in_its_order(run):
    first, second = job("first", 0, 2, 10, accepts=("t4", "v100")), job("second", 0, 2, 10, accepts=("t4", "v100"))

    schedule = run([first, second], TYPES, FIFO)

    assert schedule.nodes("first") == [(1,)]
    assert schedule.nodes("second") == [(0,)]
    assert list(schedule.result.gpu_type) == ["t4", "v100"]


def test_a_gang_does_not_mix_types(run):
    schedule = run([job("gang", 0, 3, 10)], TYPES, FIFO)

    assert list(schedule.result.state) == ["unschedulable"]


def test_an_untyped_node_takes_every_job(run):
    assert run([job("a", 0, 2, 10, accepts=("h100",))], "1x2", FIFO).held("a") == [(0, 10)]


def test_a_job_waits_for_its_type_and_others_pass_it(run):
    jobs = [job("a", 0, 2, 50, accepts=("t4",)), job("b", 1, 1, 5, accepts=("t4",)), job("c", 2, 1, 5, accepts=("v100",))]

    schedule = run(jobs, TYPES, GREEDY)

    assert schedule.held("b") == [(50, 55)]
    assert schedule.held("c") == [(2, 7)]


def test_a_fraction_that_fits_no_gpu_of_the_first_type_takes_the_next(run):
    """Found by reading: 0.4 + 0.4 of the first type count as room for 0.6."""
    on = Cluster.of([Node(gpus=2, type="v100"), Node(gpus=1, type="t4")])

    schedule = run([job(name, 0, 0.6, 10) for name in "abc"], on, GREEDY)

    assert schedule.nodes("c") == [(1,)]
    assert schedule.held("c") == [(0, 10)]


def test_a_gang_that_may_not_spread_takes_another_type_rather_than_wait(run):
    on = Cluster.of([Node(gpus=2, type="v100"), Node(gpus=2, type="v100"), Node(gpus=2, type="t4")])
    jobs = [job("a", 0, 1, 10), job("b", 0, 1, 10), job("gang", 0, 2, 10, max_nodes=1)]

    assert run(jobs, on, GREEDY, placement="spread").nodes("gang") == [(2,)]
