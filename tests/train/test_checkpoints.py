"""Checkpoints on disk: whole or not there, whatever happens in between; and only of the newest attempt."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import textwrap
import time

import pytest

from train.counter import Counter, registered
from train.fake_node import FakeNode
from trainmaster.errors import InputError, TrainmasterError
from trainmaster.train import store as store_module
from trainmaster.train.store import Store
from trainmaster.train.superseded import Superseded


def store(folder, *, job="7", attempt=1, keep=2):
    one = Store(folder, job, attempt, "0", keep)
    one.open(clean=True)
    return one


def save(one, step, text="weights", world=1):
    draft = one.draft(step)
    (draft / "shared/model").write_text(text)
    for rank in range(world):
        one.add_part(draft, rank, {"step": step})
    one.parts(draft, world, None)
    one.commit(draft, step, world)


def steps(folder):
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def test_the_newest_is_found_and_the_last_two_are_kept(tmp_path):
    one = store(tmp_path)
    for step in (10, 20, 999_999_999, 1_000_000_000):
        save(one, step, text=str(step))

    assert steps(tmp_path) == [999_999_999, 1_000_000_000]
    newest = store(tmp_path, attempt=2).newest()
    assert newest.step == 1_000_000_000
    assert (newest.shared / "model").read_text() == "1000000000"


def truncate(path):
    (path / "shared/model").write_text("weig")


def flip(path):
    (path / "shared/model").write_text("weighty")  # as long as "weights"


def forget(path):
    (path / "shared/model").unlink()


def add(path):
    (path / "shared/other").write_text("")


def no_manifest(path):
    (path / "manifest.json").unlink()


def half_a_manifest(path):
    (path / "manifest.json").write_text((path / "manifest.json").read_text()[:40])


def a_list(path):
    (path / "manifest.json").write_text("[]")


def other_sums(path):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "files": dict.fromkeys(manifest["files"])}))


def no_sums(path):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "files": list(manifest["files"])}))


def nested(path):
    (path / "manifest.json").write_text("[" * 200_000)


def another_step(path):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "step": 19}))


DAMAGE = {
    truncate: "shared/model has 4 bytes, not the 7 written",
    flip: "shared/model is damaged",
    forget: "shared/model is missing",
    add: "shared/other does not belong to it",
    no_manifest: "manifest.json is missing",
    half_a_manifest: "manifest.json is damaged",
    a_list: "manifest.json is damaged",
    other_sums: "manifest.json is damaged",
    no_sums: "manifest.json is damaged",
    nested: "manifest.json is damaged",
    another_step: "step 19",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_passed_over_and_its_problem_named(tmp_path, damage):
    save(store(tmp_path), 10)
    save(store(tmp_path), 20)
    damage(tmp_path / "step-000000020")

    one = store(tmp_path, attempt=2)

    assert one.newest().step == 10
    assert DAMAGE[damage] in one.broken[0][1]
    save(one, 15)
    assert steps(tmp_path) == [10, 15]  # the broken one, although of a later step, does not push a whole one out


def test_a_checkpoint_is_saved_although_older_and_broken_ones_cannot_be_removed(tmp_path, monkeypatch):
    for step in (10, 20):
        save(store(tmp_path), step)
    truncate(tmp_path / "step-000000020")
    one = store(tmp_path, attempt=2, keep=1)
    assert one.newest().step == 10

    def rename(source, target, real=os.rename):
        if ".removing-" in str(target) and source.exists():
            raise PermissionError(1, "Operation not permitted")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        save(one, 15)
    assert store(tmp_path, attempt=2).newest().step == 15
    save(one, 16)
    assert steps(tmp_path) == [16]


def test_a_run_says_which_checkpoint_it_skipped_and_goes_on_from_the_one_before(tmp_path, capsys):
    node, counter = FakeNode(tmp_path), Counter()
    for item in registered(node.environment, counter, every_steps=1).steps(3, replay=False):
        counter.seen.append(item)
    (node.checkpoints / "step-000000003/shared/seen.json").write_text("")

    again = Counter()
    run = registered(FakeNode(tmp_path, 2).environment, again)

    assert again.seen == [0, 1] and run.step == 2
    assert "step-000000003: skipped: shared/seen.json has 0 bytes" in capsys.readouterr().err


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
    draft = store(tmp_path).draft(30)
    (draft / "shared/model").write_text("half")

    one = store(tmp_path, attempt=2)

    assert one.newest() is None
    assert not list(tmp_path.glob(".saving-*"))


def test_an_older_attempt_does_not_commit(tmp_path):
    old = store(tmp_path, attempt=1)
    save(old, 10)
    store(tmp_path, attempt=2)

    with pytest.raises(Superseded, match=r"attempt 1 is not the newest of this job any more \(2 is\)"):
        save(old, 20)
    assert steps(tmp_path) == [10]
    with pytest.raises(Superseded):
        store(tmp_path, attempt=1)


def test_the_fence_that_the_node_wrote_holds_too(tmp_path):
    old = store(tmp_path, attempt=3)
    (tmp_path / "fence").write_text("4")
    with pytest.raises(Superseded):
        save(old, 20)


def test_a_later_job_takes_the_folder_over_with_its_checkpoints(tmp_path):
    old = store(tmp_path, job="7", attempt=5)
    save(old, 10)

    assert store(tmp_path, job="9", attempt=1).newest().step == 10
    with pytest.raises(Superseded, match="job 9 has started in"):
        save(old, 20)


def test_a_fence_that_is_no_number_is_not_taken_for_zero(tmp_path):
    (tmp_path / "fence").write_text("many")
    (tmp_path / "owner").write_text("7")
    with pytest.raises(TrainmasterError, match='"many" is not the number of an attempt'):
        store(tmp_path)


def test_a_checkpoint_waits_for_every_rank_and_no_longer_than_it_may(tmp_path):
    one = store(tmp_path)
    draft = one.draft(5)
    one.add_part(draft, 0, {"step": 5})

    with pytest.raises(TimeoutError, match=r"ranks \[1, 2\]"):
        one.parts(draft, 3, time.time() - 1)


def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, capsys):
    counter = Counter()

    def full(folder):
        if len(counter.seen) == 2:
            raise OSError(28, "No space left on device")
        Counter.save(counter, folder)

    counter.save = full
    node = FakeNode(tmp_path)
    for item in registered(node.environment, counter, every_steps=1).steps(3, replay=False):
        counter.seen.append(item)

    assert steps(node.checkpoints) == [1, 3]
    assert not list(node.checkpoints.glob(".saving-*"))
    assert "checkpoint of step 2 not saved: [Errno 28] No space left on device; the last one is of step 1" in capsys.readouterr().err


def test_ranks_that_resumed_from_different_checkpoints_do_not_save_together(tmp_path):
    first = FakeNode(tmp_path)
    for item in registered(first.environment, Counter(), every_steps=1).steps(2, replay=False):
        assert item < 2
    node = FakeNode(tmp_path, 2)
    runs = [registered(node.of_rank(rank, 2), Counter(), every_steps=1) for rank in (0, 1)]
    runs[1].resumed_step = 1

    runs[1].advance()
    with pytest.raises(TrainmasterError, match="rank 1 resumed from step 1, rank 0 from step 2"):
        runs[0].advance()


def test_a_rank_that_begins_the_next_pass_while_the_checkpoint_is_committed_does_not_change_it(tmp_path, monkeypatch):
    node = FakeNode(tmp_path)
    runs = [registered(node.of_rank(rank, 2), Counter(), every_steps=3) for rank in (0, 1)]
    commit = runs[0].checkpoint.store.commit
    next_pass = []

    def slow(draft, step, world):
        monkeypatch.setattr(store_module, "_sum", summed)
        commit(draft, step, world)

    def summed(path, *, flush=False, real=store_module._sum):
        found = real(path, flush=flush)
        if path.parent.name == "rank-1" and not next_pass:
            next_pass.append(runs[1].steps(range(3), replay=False))
            next(next_pass[0])  # rank 1 does not save the model: it has gone on meanwhile
        return found

    monkeypatch.setattr(runs[0].checkpoint.store, "commit", slow)
    for run in reversed(runs):
        assert len(list(run.steps(range(3), replay=False))) == 3

    assert next_pass
    assert not list(node.checkpoints.glob(".saving-*"))
    assert store(node.checkpoints, attempt=2).newest().step == 3


def test_a_gang_that_comes_back_to_the_step_of_a_damaged_checkpoint_saves_it_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "PARTS_WAIT_S", 1.0)
    node = FakeNode(tmp_path)
    for run in [registered(node.of_rank(rank, 2), Counter(), every_steps=2) for rank in (1, 0)]:
        assert len(list(run.steps(range(4), replay=False))) == 4
    (node.checkpoints / "step-000000004/shared/seen.json").write_text("[]!")

    again = FakeNode(tmp_path, 2)
    for run in [registered(again.of_rank(rank, 2), Counter(), every_steps=2) for rank in (1, 0)]:
        assert list(run.steps(range(4), replay=False)) == [2, 3]

    assert store(node.checkpoints, attempt=3).newest().step == 4


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/checkpoints: Not a directory: checkpoints cannot be kept there"):
        registered({}, Counter(), directory=str(tmp_path / "file/checkpoints"))


def test_a_run_on_other_ranks_goes_on_after_as_many_items(tmp_path, capsys):
    node = FakeNode(tmp_path)
    runs = [registered(node.of_rank(rank, 2), Counter(), every_steps=3) for rank in (0, 1)]
    loops = [run.steps(range(10), replay=False) for run in runs]
    for _ in range(4):
        for loop in (loops[1], loops[0]):
            next(loop)
    for loop in loops:
        loop.close()

    run = registered(FakeNode(tmp_path, 2).environment, Counter())

    assert list(run.steps(range(20), replay=False)) == list(range(6, 20))  # 2 x 3 were seen
    assert "is of 2 ranks, this run has 1: it goes on, but not bit for bit" in capsys.readouterr().err


SAVES_ALL_THE_TIME = textwrap.dedent(
    """
    import os, random
    import trainmaster.train as tm
    step = 0
    def save(folder):
        for k in range(4):
            (folder / f"part{k}").write_bytes(tm.steps_done().to_bytes(8, "little") * 20_000)
    def load(folder):
        parts = {(folder / f"part{k}").read_bytes() for k in range(4)}
        assert parts == {tm_step.to_bytes(8, "little") * 20_000 for tm_step in [int.from_bytes(next(iter(parts))[:8], "little")]}
        global step
        step = int.from_bytes(parts.pop()[:8], "little")
    tm.checkpoint(save, load, every_steps=1)
    assert step == tm.steps_done()
    print(f"resumed {step}", flush=True)
    for _ in tm.steps():
        print(tm.steps_done(), flush=True)
    """
)


def killed_while_saving(folder, attempt, wait_s):
    """(the step it resumed from, the last step that it began, all of whose predecessors are saved)"""
    environment = {**os.environ, **FakeNode(folder, attempt).environment}
    process = subprocess.Popen([sys.executable, "-c", SAVES_ALL_THE_TIME], env=environment, stdout=subprocess.PIPE, text=True)
    resumed = int(process.stdout.readline().removeprefix("resumed "))
    time.sleep(wait_s)
    process.kill()
    lines = process.communicate(timeout=20)[0].splitlines()
    return resumed, int(lines[-1]) if lines else resumed


@pytest.mark.parametrize("kills", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_killed_at_any_instant_a_run_resumes_from_the_last_checkpoint_that_was_made(tmp_path, kills):
    chance = random.Random(kills)
    saved = half = 0
    for attempt in range(1, kills + 1):
        resumed, begun = killed_while_saving(tmp_path, attempt, chance.uniform(0, 0.1))
        assert saved <= resumed <= saved + 1  # the step that was being saved when it was killed may be there
        saved = begun
        half += bool(list((tmp_path / "checkpoints").glob(".saving-*")))
    assert half  # some were killed in the middle of it
