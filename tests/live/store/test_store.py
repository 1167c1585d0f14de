"""What goes into the store comes out of it, on both databases."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import sqlalchemy as sa

from live.store.conftest import Clock, Opener
from live.store.rows import SPEC, add_job, attempt, new_job
from trainmaster.errors import InputError, InvariantBroken, NotFound
from trainmaster.live.backends.base import NodeShare
from trainmaster.live.control import AttemptRecord, EventRecord, JobFilter, JobRecord
from trainmaster.live.states import State
from trainmaster.live.store import JobRow, NewEvent, PolicyMemory, Store, Usage
from trainmaster.live.store.reads import listing
from trainmaster.live.store.transaction import Transaction

EVERY_COLUMN = {
    "name": "größer", "user": "ada", "queue": "research", "account": "grant-7", "state": State.PREEMPTING, "reason": "for job 9",
    "priority": -2.5, "gpus": 4.0, "held": True, "suspended": True, "preemptible": True, "limit_s": 3_600.0, "estimate_s": 1_800.0,
    "begin_s": 11.0, "deadline_s": 9_999.5, "array_job": 1, "array_index": 3, "after": ("afterok:12", "after:7"), "submit_s": 10.0,
    "eligible_s": 11.0, "start_s": 20.25, "finish_s": None, "run_s": 100.5, "gpu_s": 402.0, "exit_code": 130, "attempts": 3,
    "preemptions": 1, "failures": 1, "tries": 2, "lost_steps": 17, "step": 1_000_000, "saved_step": 999_000, "gpu_type": "h100",
    "nodes": ("cpu-a", "cpu-b"), "labels": {"team": "vision"}, "engine": {"settled_gpu_s": 402.0, "served_s": [1.5]},
}  # fmt: skip


def test_a_job_comes_back_with_every_column(store: Store):
    with store.begin() as tx:
        (id,) = tx.add_jobs([new_job(tx, **EVERY_COLUMN)])

    (row,) = store.active_jobs().jobs
    assert row == JobRow(id=id, spec=1, **EVERY_COLUMN)

    shown = {name: value for name, value in asdict(row).items() if name in JobRecord.__slots__}
    assert store.job(id) == JobRecord(eta_s=None, place=None, **shown)
    assert store.jobs(JobFilter()) == [store.job(id)]


def test_a_record_from_the_store_is_an_ordinary_one(store: Store):
    assert type(store.job(add_job(store))) is JobRecord


def test_ids_are_small_ascending_and_contiguous_in_one_call(store: Store):
    with store.begin() as tx:
        assert tx.next_job == 1
        assert tx.add_jobs([new_job(tx)] * 3) == [1, 2, 3]
        assert tx.next_job == 4
    assert add_job(store) == 4


def test_the_id_of_a_transaction_that_was_rolled_back_is_not_given_again(store: Store):
    with pytest.raises(RuntimeError), store.begin() as tx:
        lost = tx.add_jobs([new_job(tx)])
        raise RuntimeError
    assert add_job(store) > max(lost)
    with pytest.raises(NotFound, match="no job 1"):
        store.job(1)


def test_ids_go_on_after_the_store_was_closed_and_opened(opened: Opener):
    first = opened()
    ids = [add_job(first), add_job(first)]
    first.close()
    assert add_job(opened("second")) > max(ids)


def test_an_array_shares_one_spec_and_an_environment_is_stored_once(store: Store, url: str):
    with store.begin() as tx:
        one, two = tx.add_specs([SPEC, json.dumps({"command": ["other"], "env": {"HOME": "/home/ada"}})])
        tx.add_jobs([new_job(tx, spec=one, array_job=tx.next_job, array_index=i) for i in range(3)] + [new_job(tx, spec=two)])

    assert [json.loads(store.spec(id)) for id in (1, 2, 3)] == [json.loads(SPEC)] * 3
    active = store.active_jobs()
    assert {id: json.loads(active.spec(id)) for id in active.bodies} == {one: json.loads(store.spec(1)), two: json.loads(store.spec(4))}
    assert len(active.environments) == 1


@pytest.mark.parametrize("spec", [{}, {"env": {}}, {"command": ["a"]}, {"env": {"A": "\0\ud800 ü"}, "script": "#!/bin/sh\n\0"}])
def test_a_spec_comes_back_as_it_was(store: Store, spec: dict[str, object]):
    with store.begin() as tx:
        tx.add_jobs([new_job(tx, spec=tx.add_specs([json.dumps(spec)])[0])])
    assert json.loads(store.spec(1)) == spec
    assert json.loads(store.active_jobs().spec(1)) == spec


def test_changes_of_some_columns_leave_the_others(store: Store):
    ids = [add_job(store), add_job(store), add_job(store)]
    with store.begin() as tx:
        tx.update_jobs([(ids[0], {"state": State.RUNNING, "start_s": 5.0}), (ids[2], {"reason": "capacity", "nodes": ("cpu-a",)})])

    jobs = [store.job(id) for id in ids]
    assert [job.state for job in jobs] == [State.RUNNING, State.PENDING, State.PENDING]
    assert [job.start_s for job in jobs] == [5.0, None, None]
    assert [job.reason for job in jobs] == ["", "", "capacity"]
    assert [job.nodes for job in jobs] == [(), (), ("cpu-a",)]


def test_the_last_of_several_changes_of_a_job_holds_whatever_columns_they_name(store: Store):
    id = add_job(store)
    with store.begin() as tx:
        tx.update_jobs([(id, {"state": State.STARTING, "reason": "a"}), (id, {"state": State.RUNNING}), (id, {})])
        tx.update_jobs([(id, {"state": State.RUNNING}), (id, {"reason": "b", "state": State.FAILED})])
    assert (store.job(id).state, store.job(id).reason) == (State.FAILED, "b")


def test_a_change_of_a_job_that_does_not_exist_is_a_bug_and_changes_nothing(store: Store):
    id = add_job(store)
    with pytest.raises(InvariantBroken, match="1 found"), store.begin() as tx:
        tx.update_jobs([(id, {"reason": "x"}), (99, {"reason": "x"})])
    assert store.job(id).reason == ""


def test_attempts_come_back_in_order_with_their_shares(store: Store):
    id = add_job(store)
    with store.begin() as tx:
        tx.add_attempts([attempt(id, 1), attempt(id, 2, state="running")])
        ended, moved = {"state": "ended", "end_s": 30.0, "exit_code": 1}, {"step": 5, "shares": (NodeShare(node="cpu-c", gpus=0.5),)}
        tx.update_attempts([(id, 1, ended), (id, 2, moved)])

    first, second = store.attempts(id)
    assert first == AttemptRecord(
        job=id, attempt=1, state="ended", nodes=("cpu-a", "cpu-b"), gpus=(2.0, 2.0), claimed_s=20.0, start_s=None, end_s=30.0, exit_code=1,
        reason="", step=None, saved_step=None, lost_steps=0,
    )  # fmt: skip
    assert (second.nodes, second.gpus, second.step) == (("cpu-c",), (0.5,), 5)
    (live,) = store.active_jobs().attempts[id]
    assert live == attempt(id, 2, state="running", step=5, shares=(NodeShare(node="cpu-c", gpus=0.5),))


def test_a_start_sees_the_jobs_that_have_not_ended_and_the_attempts_that_have_no_end(store: Store):
    waits, ended = add_job(store), add_job(store, state=State.SUCCEEDED, finish_s=50.0)
    with store.begin() as tx:
        tx.add_attempts([attempt(ended, end_s=50.0), attempt(waits, end_s=40.0)])
    active = store.active_jobs()
    assert [job.id for job in active.jobs] == [waits]
    assert active.attempts == {}


def test_events_come_back_in_the_order_of_their_ids(store: Store):
    with store.begin() as tx:
        ids = tx.add_events([
            NewEvent(at_s=1.0, kind="submitted", job=1, actor="ada", data={"key": "k"}), NewEvent(at_s=1.0, kind="policy", reason="fifo"),
            NewEvent(at_s=2.0, kind="state", job=1, attempt=1, state="RUNNING", reason="started"),
        ])  # fmt: skip

    first = EventRecord(id=ids[0], at_s=1.0, job=1, attempt=None, kind="submitted", state=None, reason="", actor="ada", data={"key": "k"})
    assert store.events()[0] == first
    assert [event.id for event in store.events()] == ids == sorted(ids)
    assert [event.kind for event in store.events(job=1)] == ["submitted", "state"]
    assert [event.id for event in store.events(after=ids[0], limit=1)] == [ids[1]]


@pytest.mark.parametrize("statement", ["UPDATE events SET reason = 'x'", "DELETE FROM events"])
def test_an_event_can_be_neither_changed_nor_deleted_by_anybody(store: Store, url: str, statement: str):
    with store.begin() as tx:
        tx.add_events([NewEvent(at_s=1.0, kind="submitted", job=1)])

    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with pytest.raises(sa.exc.DBAPIError, match="events are append-only"), engine.begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()
    assert [event.reason for event in store.events()] == [""]


def test_a_decision_is_kept_with_the_memory_it_left(store: Store):
    with store.begin() as tx:
        tx.put_decision(1, 100.0, "fifo", 2.5, b"\x00record", b"memory 1", 1)
        tx.put_decision(2, 200.0, "fifo", 0.5, None, b"memory 2", 3)

    last = store.decision()
    assert last is not None and (last.id, last.at_s, last.policy, last.took_ms, last.record) == (2, 200.0, "fifo", 0.5, None)
    assert store.policy_memory() == PolicyMemory(decision=2, policy="fifo", version=3, body=b"memory 2")
    assert [found and found.id for found in (store.decision(1), store.decision(at_s=199.0), store.decision(at_s=99.0))] == [1, 1, None]


def test_only_the_last_decisions_are_kept(store: Store):
    for id in range(1, 8):
        with store.begin() as tx:
            tx.put_decision(id, float(id), "fifo", 1.0, b"r", b"m", 1, keep=3)
    assert [store.decision(id) is not None for id in range(1, 8)] == [False] * 4 + [True] * 3


def test_a_request_that_is_repeated_makes_what_it_made_the_first_time(store: Store):
    with store.begin() as tx:
        assert tx.remember_key("ada", "k", [7, 8]) == [7, 8]
        assert tx.remember_key("ada", "k", [9, 10]) == [7, 8]  # in the same transaction,
    with store.begin() as tx:
        assert tx.remember_key("ada", "k", [11, 12]) == [7, 8]  # in a later one
        assert tx.remember_key("bob", "k", [11, 12]) == [11, 12]
    assert (store.ids_of_key("ada", "k"), store.ids_of_key("bob", "k")) == ([7, 8], [11, 12])


def test_a_request_is_known_again_where_it_is_not_told_how_many_rows_were_inserted(store: Store, monkeypatch: pytest.MonkeyPatch):
    """As SQLAlchemy before 2.0.28 on PostgreSQL, which does not know that it is asked to."""

    class Untold:
        rowcount = -1

    execute = Transaction._execute
    monkeypatch.setattr(Transaction, "_execute", lambda *about: (execute(*about), Untold())[1])
    with store.begin() as tx:
        assert tx.remember_key("ada", "k", [7, 8]) == [7, 8]
        assert tx.remember_key("ada", "k", [9, 10]) == [7, 8]


def test_a_request_is_remembered_by_actor_and_key(store: Store):
    with store.begin() as tx:
        tx.remember_key("ada", "k", [7, 8, 9, 4])
    assert store.ids_of_key("ada", "k") == [7, 8, 9, 4]
    assert store.ids_of_key("bob", "k") is None


def test_what_was_said_about_a_node_last_holds(store: Store):
    with store.begin() as tx:
        tx.set_node("cpu-b", True, "fan", "ada")
        tx.set_node("cpu-a", True, "disk", "ada")
        tx.set_node("cpu-b", False, "", "bob")
    assert [(node.name, node.drained, node.actor) for node in store.nodes()] == [("cpu-a", True, "ada"), ("cpu-b", False, "bob")]


def test_meta_holds_any_json_value_under_a_key(store: Store):
    with store.begin() as tx:
        tx.put_meta("policy", {"name": "fifo"})
        tx.put_meta("policy", {"name": "srtf", "settings": [1, None]})
    assert store.meta("policy") == {"name": "srtf", "settings": [1, None]}
    assert store.meta("other") is None


def test_a_token_is_found_by_its_hash_until_it_is_revoked_or_has_run_out(store: Store, clock: Clock):
    lasting, short = store.add_token("h1", "ada", "user", "laptop", None), store.add_token("h2", "bob", "admin", "ci", clock.now_s + 10)
    found = store.find_token("h1")
    assert found is not None and (found.id, found.user, found.role, found.name) == (lasting, "ada", "user", "laptop")
    assert store.find_token("h3") is None

    assert store.find_token("h2") is not None
    clock.now_s += 10
    assert store.find_token("h2") is None

    assert store.revoke(lasting)
    assert not store.revoke(lasting) and not store.revoke(99)
    assert store.find_token("h1") is None
    assert [(token.id, token.revoked_s) for token in store.tokens()] == [(lasting, clock.now_s), (short, None)]


# ------------------------------------------------------------------------------------------------- listings


@pytest.fixture
def listed(store: Store) -> Store:
    """1 ada a PENDING, 2 bob b RUNNING, 3 ada b SUCCEEDED at 50, 4 bob a FAILED at 90."""
    add_job(store, user="ada", name="a", queue="q1", submit_s=10)
    add_job(store, user="bob", name="b", queue="q1", submit_s=20, state=State.RUNNING, start_s=25.0, run_s=5.0, gpu_s=10.0)
    add_job(store, user="ada", name="b", queue="q2", submit_s=30, state=State.SUCCEEDED, finish_s=50.0, run_s=10.0, gpu_s=40.0)
    add_job(store, user="bob", name="a", queue=None, submit_s=40, state=State.FAILED, finish_s=90.0, run_s=1.0, gpu_s=1.0)
    return store


@pytest.mark.parametrize(
    "which, ids",
    [
        (JobFilter(), [1, 2]),
        (JobFilter(all=True), [1, 2, 3, 4]),
        (JobFilter(states=(State.RUNNING, State.FAILED)), [2, 4]),
        (JobFilter(states=(State.FAILED,), all=True), [4]),
        (JobFilter(all=True, users=("ada",)), [1, 3]),
        (JobFilter(users=("ada", "bob"), queues=("q1",)), [1, 2]),
        (JobFilter(all=True, names=("a",)), [1, 4]),
        (JobFilter(all=True, ids=(4, 2, 77)), [2, 4]),
        (JobFilter(all=True, since_s=60.0), [1, 2, 4]),
        (JobFilter(all=True, since_s=90.0, until_s=40.0), [1, 2]),
        (JobFilter(all=True, limit=2), [1, 2]),
        (JobFilter(all=True, limit=2, after_id=2), [3, 4]),
        (JobFilter(all=True, limit=0), []),
    ],
)
def test_a_listing_has_the_jobs_asked_for_by_id(listed: Store, which: JobFilter, ids: list[int]):
    assert [job.id for job in listed.jobs(which)] == ids


def test_a_listing_takes_more_ids_than_a_statement_has_parameters(listed: Store):
    assert [job.id for job in listed.jobs(JobFilter(all=True, ids=tuple(range(1, 100_000))))] == [1, 2, 3, 4]


def test_jobs_are_counted_by_state(listed: Store):
    assert listed.counts() == {State.PENDING: 1, State.RUNNING: 1, State.SUCCEEDED: 1, State.FAILED: 1}


def test_usage_is_summed_by_user_queue_and_account(listed: Store):
    rows = {(u.user, u.queue): u for u in listed.usage()}
    assert rows[("bob", "q1")] == Usage(user="bob", queue="q1", account=None, jobs=1, run_s=5.0, gpu_s=10.0)
    assert {key: u.gpu_s for key, u in rows.items()} == {("ada", "q1"): 0.0, ("ada", "q2"): 40.0, ("bob", "q1"): 10.0, ("bob", None): 1.0}
    assert sum(u.gpu_s for u in listed.usage(since_s=60.0)) == 11.0


@pytest.mark.parametrize(
    "which, index",
    [
        (JobFilter(), "ix_jobs_active"),
        (JobFilter(all=True, after_id=500, limit=10), "USING INTEGER PRIMARY KEY (rowid>?)"),
        (JobFilter(all=True, ids=(3, 4)), "USING INTEGER PRIMARY KEY (rowid=?)"),
        (JobFilter(all=True, users=("ada",), after_id=500, limit=10), "ix_jobs_user (user=? AND id>?)"),
        (JobFilter(all=True, names=("a", "b")), "ix_jobs_name"),
        (JobFilter(states=(State.FAILED,)), "ix_jobs_state"),
        (JobFilter(all=True, since_s=5.0), "ix_jobs_finish_s"),
    ],
)
def test_a_listing_of_a_long_history_goes_by_an_index(tmp_path: Path, clock: Clock, which: JobFilter, index: str):
    store_url = f"sqlite:///{tmp_path}/store.db"
    Store.open(store_url, owner="me", now=clock).close()
    engine = sa.create_engine(store_url)
    text = str(listing(which, "sqlite").compile(engine, compile_kwargs={"literal_binds": True}))
    with engine.connect() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
    engine.dispose()
    assert any(index in step for step in plan), plan
    assert not any(step.startswith("SCAN jobs") and "ix_jobs_active" not in step for step in plan), plan


# ------------------------------------------------------------------------------------------------- hostile values


def test_text_that_postgresql_does_not_take_is_made_to_fit(store: Store):
    id = add_job(store, reason="a\0b\ud800c", labels={"x": "\0\ud800"})
    with store.begin() as tx:
        tx.add_events([NewEvent(at_s=1.0, kind="state", job=id, reason="x" * 5_000, data={"line": "\0"})])

    assert store.job(id).reason == "a\N{REPLACEMENT CHARACTER}b?c"
    assert store.job(id).labels == {"x": "\0\ud800"}
    (event,) = store.events()
    assert len(event.reason) == 1_000 and event.reason.endswith("…")
    assert event.data == {"line": "\0"}


def test_numbers_that_do_not_fit_become_the_nearest_that_do(store: Store):
    id = add_job(store, step=10**30, saved_step=-(10**30), estimate_s=float("nan"), limit_s=float("inf"))
    job = store.job(id)
    assert (job.step, job.saved_step, job.limit_s) == (2**63 - 1, -(2**63 - 1), float("inf"))
    assert store.active_jobs().jobs[0].estimate_s is None


def test_a_json_value_beyond_its_bound_is_refused_and_nothing_is_written(store: Store):
    with pytest.raises(InputError, match="the store takes at most"), store.begin() as tx:
        tx.add_jobs([new_job(tx, engine={"x": "y" * 100_000})])
    assert store.jobs(JobFilter(all=True)) == []


@pytest.mark.parametrize(
    "url, problem",
    [
        ("sqlite://", "survives nothing"), ("sqlite:///:memory:", "survives nothing"), ("mysql://h/d", "mysql is not supported"),
        ("no url", "not a database URL"),
    ],
)
def test_a_url_that_is_no_store_is_refused_in_one_line(clock: Clock, url: str, problem: str):
    with pytest.raises(InputError, match=problem) as caught:
        Store.open(url, owner="me", now=clock)
    assert "\n" not in str(caught.value)
