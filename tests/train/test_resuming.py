"""A preempted PyTorch run ends with the weights of the run that was left alone, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
from pathlib import Path

import pytest

from train.fake_node import FakeNode, ask_to_stop

torch = pytest.importorskip("torch")
from train import tiny  # noqa: E402
from train.counter import Counter, registered  # noqa: E402
from trainmaster.errors import InputError  # noqa: E402
from trainmaster.train.pytorch import States  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def preloading():
    """The server that ranks are forked from imports PyTorch once; its path is its environment's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
        yield


@pytest.fixture(scope="module")
def left_alone():
    return tiny.train({})


def preempted(folder, stops, **settings):
    """(SHA-256 at the end, the steps done by each attempt): attempt after attempt, stopped in the middle of the steps given."""
    begun = []
    for attempt, stop in enumerate([*stops, None], 1):
        node = FakeNode(folder, attempt)
        done = []

        def during(step, node=node, stop=stop, done=done):
            done.append(step)
            if step == stop:
                node.ask_to_stop()

        begun.append(done)
        try:
            return tiny.train(node.environment, during=during, **settings), begun
        except SystemExit as end:
            assert end.code == 0
            assert node.read("ack.0")["saved_step"] == node.read("ack.0")["step"] == stop
    raise AssertionError("the last attempt was not asked to stop")


def test_stopped_five_times_it_ends_as_if_it_had_not_been(tmp_path, left_alone):
    chance = random.Random(5)
    sha, done = preempted(tmp_path, sorted(chance.sample(range(1, tiny.STEPS[1]), 5)))

    assert sha == left_alone
    assert [step for attempt in done for step in attempt] == list(range(1, tiny.STEPS[1] + 1))  # none twice, none lost


@pytest.mark.slow
def test_stopped_after_nearly_every_step_it_ends_as_if_it_had_not_been(tmp_path, left_alone):
    stops = sorted(random.Random(50).sample(range(1, tiny.STEPS[1]), 50))
    sha, done = preempted(tmp_path, stops)

    assert sha == left_alone
    assert [step for attempt in done for step in attempt] == list(range(1, tiny.STEPS[1] + 1))


ENDS_OF_EPOCHS = [20, 21, 40, 59]


def test_the_last_step_of_an_epoch_is_no_special_case(tmp_path, left_alone):
    assert preempted(tmp_path, ENDS_OF_EPOCHS)[0] == left_alone


def test_a_loop_over_range_is_resumed_too(tmp_path, left_alone):
    sha, done = preempted(tmp_path, [25, 40, 47], naive_epochs=True)

    assert sha == left_alone
    assert [step for attempt in done for step in attempt] == list(range(1, tiny.STEPS[1] + 1))


def test_skipped_data_are_not_loaded(tmp_path, left_alone):
    with pytest.raises(SystemExit):
        node = FakeNode(tmp_path)
        tiny.train(node.environment, during=lambda step: step == 30 and node.ask_to_stop())
    loaded = []

    assert tiny.train(FakeNode(tmp_path, 2).environment, loaded=loaded) == left_alone
    assert len(loaded) == (tiny.STEPS[1] - 30) * tiny.BATCH


def test_a_loader_with_a_generator_of_its_own(tmp_path):
    assert preempted(tmp_path, [7, 33], generator=True)[0] == tiny.train({}, generator=True)


def test_workers_that_draw_random_numbers_need_the_replay(tmp_path):
    assert preempted(tmp_path, [27], workers=2, replay=True)[0] == tiny.train({}, workers=2)


@pytest.mark.parametrize("replay", [False, True])
def test_a_pass_of_persistent_workers_goes_on_with_the_items_that_it_has_not_seen(tmp_path, replay):
    def passes(node, ask_after=None):
        torch.manual_seed(1)
        counter = Counter()
        run = registered(node.environment, counter)
        items = torch.utils.data.TensorDataset(torch.arange(6))
        loader = torch.utils.data.DataLoader(items, batch_size=2, shuffle=True, num_workers=1, persistent_workers=True)
        for _ in run.epochs(3):
            for (batch,) in run.steps(loader, replay):
                counter.seen.append(batch.tolist())
                if len(counter.seen) == ask_after:
                    node.ask_to_stop()
        return counter.seen

    with pytest.raises(SystemExit):
        passes(FakeNode(tmp_path / "stopped"), ask_after=5)

    assert passes(FakeNode(tmp_path / "stopped", 2)) == passes(FakeNode(tmp_path / "left alone"))


def test_a_failure_costs_what_was_done_since_the_last_checkpoint_and_no_more(tmp_path, left_alone):
    class Failure(Exception):
        pass

    def fail(step):
        if step == 36:
            raise Failure

    with pytest.raises(Failure):
        tiny.train(FakeNode(tmp_path).environment, during=fail, every_steps=8)
    done = []

    assert tiny.train(FakeNode(tmp_path, 2).environment, during=done.append, every_steps=8) == left_alone
    assert done == list(range(33, tiny.STEPS[1] + 1))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def rank_of_a_gang(environment, asks_at, answers, settings):
    os.environ.update(environment)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, done = int(environment["RANK"]), []

    def during(step):
        done.append(step)
        if asks_at == step:
            ask_to_stop(Path(environment["TRAINMASTER_CONTROL"]))

    try:
        sha = tiny.train(environment, during=during, **settings)
        answers.put((rank, sha, done))
        torch.distributed.destroy_process_group()
    except SystemExit:
        answers.put((rank, None, done))
        raise


def gang(environments, asks=(None, None), **settings):
    """One attempt of a gang: [(rank, SHA-256 or None, steps done)]. `asks`: (rank, step): who sets the flag in the middle of which step."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.tiny", "torch._dynamo"])
    answers = context.Queue()
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        context.Process(target=rank_of_a_gang, args=({**environment, **address}, asks[1] if rank == asks[0] else None, answers, settings))
        for rank, environment in enumerate(environments)
    ]
    for process in processes:
        process.start()
    results = sorted(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * len(processes)
    return results


def plainly(world):
    return [{"RANK": str(rank), "WORLD_SIZE": str(world)} for rank in range(world)]


def weights(results):
    """By rank: batch normalisation's running statistics are each rank's own."""
    return [sha for _, sha, _ in results]


def preempted_gang(folder, world, stops, chance):
    expected = 1
    for attempt, stop in enumerate(stops, 1):
        node = FakeNode(folder, attempt)
        results = gang([node.of_rank(rank, world) for rank in range(world)], (chance.randrange(world), stop))
        steps = {tuple(done) for _, _, done in results}
        assert len(steps) == 1  # all ranks did the same steps
        done = list(steps.pop())
        assert done == list(range(expected, expected + len(done)))  # none lost, none done again
        if results[0][1]:
            return results  # it came to its end before the published step
        assert done[-1] == node.stop_step <= stop + 1 + 2  # asked in the middle of a step, margin 2
        assert [ack["step"] for ack in node.acks(world)] == [node.stop_step] * world
        assert node.read("ack.0")["saved_step"] == node.stop_step
        expected = node.stop_step + 1
    node = FakeNode(folder, len(stops) + 1)
    return gang([node.of_rank(rank, world) for rank in range(world)])


def test_a_gang_of_four_stops_after_one_step_and_ends_as_if_left_alone(tmp_path):
    alone = gang(plainly(4))
    results = preempted_gang(tmp_path, 4, [2, 7], random.Random(4))

    assert weights(results) == weights(alone)


@pytest.mark.slow
def test_gangs_of_four_stopped_fifty_times(tmp_path):
    chance, stops, alone = random.Random(50), 0, weights(gang(plainly(4)))
    while stops < 50:
        at = sorted(chance.sample(range(1, tiny.STEPS[4] - 2), 4))
        at = [step for step, before in zip(at, [-9, *at], strict=False) if step > before + 3]
        results = preempted_gang(tmp_path / str(stops), 4, at, chance)
        assert weights(results) == alone
        stops += len(at)


def test_what_does_not_load_back_is_refused_at_registration():
    class Odd:
        def state_dict(self):
            return {"where": __import__("pathlib").Path("x")}

        def load_state_dict(self, state):
            raise AssertionError

    with pytest.raises(InputError, match=r"odd: its state_dict\(\) holds more than tensors and plain values"):
        States({"odd": Odd()}).check()
    with pytest.raises(InputError, match="model: int has no state_dict"):
        States({"model": 3})
