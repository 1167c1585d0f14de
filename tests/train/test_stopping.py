"""The stop protocol, by hand: one process, and gangs whose ranks are stepped one by one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from train.counter import Counter, registered
from train.fake_node import FakeNode
from trainmaster.errors import InputError, TrainmasterError
from trainmaster.live.node.said import said
from trainmaster.train.control import Control
from trainmaster.train.run import Run
from trainmaster.train.store import Store


@pytest.fixture
def node(tmp_path):
    return FakeNode(tmp_path)


def train(run, counter, items, *, ask=None, node=None):
    """Add every item; ask to stop in the middle of one of them."""
    for item in run.steps(items, replay=False):
        counter.seen.append(item)
        if item == ask:
            node.ask_to_stop()


def test_alone_a_run_stops_after_the_step_in_which_it_is_asked(node):
    counter = Counter()
    run = registered(node.environment, counter)

    with pytest.raises(SystemExit) as end:
        train(run, counter, range(10), ask=3, node=node)

    assert end.value.code == 0
    assert counter.seen == [0, 1, 2, 3]
    assert node.stop_step == 4
    assert {**node.read("ack.0"), "at_s": 0} == {"step": 4, "saved_step": 4, "at_s": 0}
    assert node.read("progress")["saved_step"] == 4


def test_the_next_attempt_goes_on_with_the_next_item(tmp_path, node):
    counter = Counter()
    with pytest.raises(SystemExit):
        train(registered(node.environment, counter), counter, range(10), ask=3, node=node)

    again = Counter()
    run = registered(FakeNode(tmp_path, 2).environment, again)
    assert run.resumed and run.step == 4
    train(run, again, range(10))

    assert again.seen == list(range(10))
    assert run.step == 10


def test_asked_before_its_first_step_a_run_makes_one(node):
    counter = Counter()
    node.ask_to_stop()

    with pytest.raises(SystemExit):
        train(registered(node.environment, counter), counter, range(10))

    assert counter.seen == [0]
    assert node.read("ack.0")["saved_step"] == 1


def test_a_resumed_run_that_is_asked_before_its_first_step_stops_where_it_is(tmp_path, node):
    counter = Counter()
    with pytest.raises(SystemExit):
        train(registered(node.environment, counter), counter, range(10), ask=3, node=node)

    second, again = FakeNode(tmp_path, 2), Counter()
    second.ask_to_stop()
    with pytest.raises(SystemExit):
        train(registered(second.environment, again), again, range(10))

    assert again.seen == [0, 1, 2, 3]
    assert {**second.read("ack.0"), "at_s": 0} == {"step": 4, "saved_step": 4, "at_s": 0}


def test_a_run_without_a_checkpoint_does_not_stop_for_the_flag_but_says_that_it_is_asked(node):
    run, seen = Run(node.environment), []
    for item in run.steps(5, replay=False):
        seen.append((item, run.should_stop()))
        if item == 2:
            node.ask_to_stop()

    assert seen == [(0, False), (1, False), (2, False), (3, True), (4, True)]
    assert node.read("ack.0") is None and node.read("registered") is None
    assert node.read("progress")["step"] == 5


def test_a_run_whose_last_step_comes_before_the_published_one_ends_by_itself(node):
    counters = [Counter(), Counter()]
    runs = [registered(node.of_rank(rank, 2), counter) for rank, counter in enumerate(counters)]
    for run, counter in zip(runs, counters, strict=True):
        train(run, counter, range(3), ask=2, node=node)

    assert node.stop_step == 5
    assert node.acks(2) == [None, None]


@pytest.fixture
def gang():
    started = []

    def start(node, world, **settings):
        runs = [registered(node.of_rank(rank, world), Counter(), **settings) for rank in range(world)]
        loops = [run.steps(None, replay=False) for run in runs]
        started.extend(loops)
        return runs, loops

    yield start
    for loop in started:
        loop.close()


def advance(loops, rank):
    """One step of a rank; the exit status once it stops."""
    try:
        next(loops[rank])
    except SystemExit as end:
        return end.code
    return None


def in_turn(loops, order, limit=50):
    """Ranks step in this order until all have stopped."""
    left = set(order)
    for _ in range(limit):
        for rank in order:
            if rank in left and advance(loops, rank) is not None:
                left.discard(rank)
        if not left:
            return
    raise AssertionError(f"ranks {left} have not stopped")


@pytest.mark.parametrize("order", [(1, 2, 3, 0), (3, 1, 2, 0)])
def test_every_rank_of_a_gang_stops_after_the_published_step(gang, node, order):
    runs, loops = gang(node, 4)
    for rank in (0, 1, 2, 3) * 5 + (1, 3):  # ranks 1 and 3 have begun one step more
        advance(loops, rank)
    node.ask_to_stop()
    in_turn(loops, order)

    assert [run.step for run in runs] == [node.stop_step] * 4
    assert [ack["step"] for ack in node.acks(4)] == [node.stop_step] * 4
    assert node.read("ack.0")["saved_step"] == node.stop_step
    assert node.stop_step == 5 + 2  # rank 0 published after its 5th step, with margin 2


def test_the_published_step_lies_ahead_of_a_rank_whose_gpu_lets_it_run_ahead(gang, node):
    runs, loops = gang(node, 2)
    for rank in (0, 0, *[1] * 20):
        advance(loops, rank)
    node.ask_to_stop()
    advance(loops, 0)  # publishes: rank 1 has done 19 steps

    assert node.stop_step == 19 + 2
    in_turn(loops, (1, 0))
    assert [run.step for run in runs] == [21, 21]


def test_a_rank_far_ahead_waits_for_nobody_and_is_resumed_from_its_own_step(gang, tmp_path, node, capsys):
    runs, loops = gang(node, 2)
    for rank in (0, 0, *[1] * 1500):
        advance(loops, rank)
    node.ask_to_stop()
    advance(loops, 0)
    in_turn(loops, (1, 0))

    assert node.stop_step == 2 + 2  # rank 1 does not wait for rank 0, or it would not be so far
    assert [ack["step"] for ack in node.acks(2)] == [4, 1500]
    assert "rank 1 is at step 1500, rank 0 at 4: each resumes from its own" in capsys.readouterr().err
    second = FakeNode(tmp_path, 2)
    runs, _ = gang(second, 2)
    assert [run.step for run in runs] == [4, 1500]


def test_checkpoints_by_the_clock_are_of_the_same_step_on_every_rank(gang, node):
    _, loops = gang(node, 3, every_s=1e-9)
    for _ in range(6):
        for rank in (2, 1, 0):
            advance(loops, rank)

    saved = sorted(path.name for path in node.checkpoints.glob("step-*"))
    assert saved
    for path in saved:
        steps = [json.loads((node.checkpoints / path / f"rank-{rank}/part.json").read_text())["step"] for rank in range(3)]
        assert steps == [int(path.removeprefix("step-"))] * 3


def test_registered_is_said_after_the_checkpoint_was_loaded(node):
    assert node.read("registered") is None
    registered(node.environment, Counter())
    assert node.read("registered")["rank"] == 0


def test_metrics_and_steps_are_reported_by_rank_0(node):
    run = Run(node.environment)
    for item in run.steps(3, replay=False):
        run.report({"loss": 0.5 / (item + 1), "diverged": float("nan"), "name": "no number"})

    progress = node.read("progress")
    assert progress["step"] == 3 and progress["saved_step"] is None
    assert progress["metrics"] == {"loss": pytest.approx(0.5 / 3)}


def test_no_number_of_metrics_hides_the_steps_from_the_node(node):
    run = Run(node.environment)
    for _ in run.steps(3, replay=False):
        run.report({f"layer {k} {'x' * 1000}": k for k in range(5000)} | {"huge": 10**400})

    seen = said(str(node.control), [0])
    assert seen["step"] == 3
    assert len(seen["metrics"]) == 100 and max(map(len, seen["metrics"])) == 100


def cannot_write(control, name, content):
    raise OSError(28, "No space left on device")


def test_a_full_disk_where_the_node_listens_ends_no_training(node, monkeypatch, capsys):
    monkeypatch.setattr(Control, "write", cannot_write)
    counter = Counter()
    train(registered(node.environment, counter), counter, range(3))

    assert counter.seen == [0, 1, 2]
    assert "trainmaster: the node is not told: registered: [Errno 28] No space left on device" in capsys.readouterr().err


def test_a_stop_that_cannot_be_acknowledged_does_not_look_like_the_end_of_the_training(node, monkeypatch):
    counter = Counter()
    run = registered(node.environment, counter)
    monkeypatch.setattr(Control, "write", cannot_write)
    with pytest.raises(SystemExit) as end:
        train(run, counter, range(5), ask=2, node=node)

    assert end.value.code == 128 + signal.SIGTERM
    assert Store(node.checkpoints, "7", 1, "0", 2).newest().step == 3


def test_a_full_disk_is_said_in_one_line_and_not_by_sigbus(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() or os.system(f"mount -t tmpfs -o size=64k none {disk}"):
        pytest.skip("mounting a small tmpfs needs root")
    try:
        node = FakeNode(disk)
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while filler.write(b"x" * 4096):
                pass
        run = subprocess.run([sys.executable, "-c", SCRIPT, "{}"], env={**os.environ, **node.environment}, capture_output=True, text=True)
        assert run.returncode == 1
        assert "TRAINMASTER_CONTROL" in run.stderr and "No space left on device" in run.stderr.splitlines()[-1]
    finally:
        del node
        os.system(f"umount -l {disk}")


def test_a_pass_inside_a_pass_is_refused_where_a_resumed_run_would_end_early(node):
    run = registered(node.environment, Counter())
    with pytest.raises(TrainmasterError, match=r"tm\.steps: a pass is still under way"):
        for _ in run.steps(4, replay=False):
            train(run, Counter(), range(2))

    assert len(list(run.steps(3, replay=False))) == 3  # after it, and after one that was left early, another may begin
    next(run.steps(3, replay=False))
    assert len(list(run.steps(3, replay=False))) == 3


def test_a_second_checkpoint_or_one_after_the_first_step_is_refused(node):
    run = registered(node.environment, Counter())
    with pytest.raises(TrainmasterError, match="one checkpoint, before the first step"):
        run.register(Counter().save, Counter().load, directory=None, every_s=None, every_steps=None, keep=2, every_rank=False)


def test_a_control_folder_that_is_not_there_is_said_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"TRAINMASTER_CONTROL: .*nowhere/flag"):
        Run({"TRAINMASTER_CONTROL": str(tmp_path / "nowhere")})


SCRIPT = textwrap.dedent(
    """
    import sys, time
    import trainmaster.train as tm
    seen = []
    tm.checkpoint(lambda folder: (folder / "n").write_text(str(len(seen))), lambda folder: None, **eval(sys.argv[1]))
    try:
        for step in tm.steps(100_000):
            if step == 1:
                print("ready", flush=True)
            seen.append(step)
            time.sleep(0.001)
    finally:
        print("the script's own last words", flush=True)
    """
)


def started(environment, settings="{}"):
    argv, pipe = [sys.executable, "-c", SCRIPT, settings], subprocess.PIPE
    process = subprocess.Popen(argv, env={**os.environ, **environment}, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def told_to_end(node):
    node.supersede()


def told_of_a_newer_attempt(node):
    node.flag[3] = 2


@pytest.mark.parametrize("tell", [told_to_end, told_of_a_newer_attempt], ids=lambda tell: tell.__name__)
def test_a_superseded_attempt_ends_at_once_and_writes_nothing(node, tell):
    process = started(node.environment)
    tell(node)
    out, err = process.communicate(timeout=20)

    assert process.returncode == os.EX_TEMPFAIL
    assert out == ""  # not even what the script would write on its way out
    assert "attempt 1 is not the newest of this job any more" in err
    assert not list(node.checkpoints.glob("step-*"))


def test_sigterm_without_the_flag_saves_and_ends_with_its_own_status(tmp_path):
    process = started({}, repr({"directory": str(tmp_path)}))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 128 + signal.SIGTERM
    assert "(SIGTERM)" in err, err
    assert len(list(tmp_path.glob("step-*"))) == 1, err


@pytest.fixture
def sigterm_is_the_systems():
    """Whatever a test before this one has left there."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_in_the_last_evaluation_saves_and_ends_too(tmp_path, capsys, sigterm_is_the_systems):
    counter = Counter()
    run = registered({}, counter, directory=str(tmp_path))
    with pytest.raises(SystemExit) as end:
        for epoch in run.epochs(2):
            train(run, counter, range(3))
            if epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == 128 + signal.SIGTERM

    again = Counter()
    run = registered({}, again, directory=str(tmp_path))
    evaluated = []
    for epoch in run.epochs(2):
        train(run, again, range(3))
        evaluated.append(epoch)
    assert (again.seen, evaluated) == ([0, 1, 2] * 2, [1])


def test_sigterm_after_the_flag_does_not_end_a_run_that_is_saving(node):
    process = started(node.environment)
    node.ask_to_stop("limit")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 0
    assert len(list(node.checkpoints.glob("step-*"))) == 1
    assert "the last checkpoint is of step" in err
