"""One controller at a time, by a lease; the fencing epoch keeps a superseded one from writing whatever the clocks say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

import pytest

from live.store.conftest import Clock, Opener
from live.store.rows import add_job, new_job
from trainmaster.errors import Conflict, InvariantBroken
from trainmaster.live.control import JobFilter
from trainmaster.live.store import LeaseLost, Store, StoreUnavailable
from trainmaster.live.store import database as database_module

ALL = JobFilter(all=True)


def test_a_second_controller_is_refused_by_name_until_the_lease_has_run_out(opened: Opener, clock: Clock):
    first = opened("first", lease_s=15.0)
    clock.now_s += 5
    with pytest.raises(Conflict, match=r"held by the controller first, for 10 s more"):
        opened("second")

    clock.now_s += 10
    second = opened("second")
    assert second.epoch == first.epoch + 1


def test_every_transaction_and_every_renewal_holds_the_lease_for_another_term(opened: Opener, clock: Clock):
    first = opened("first", lease_s=15.0)
    for hold in (first.renew, lambda: add_job(first)):
        clock.now_s += 14
        hold()
    clock.now_s += 14
    with pytest.raises(Conflict, match="for 1 s more"):
        opened("second")


def test_a_superseded_controller_can_commit_nothing_and_is_told_by_whom(opened: Opener, clock: Clock):
    first = opened("first")
    clock.now_s += 15
    second = opened("second")

    with pytest.raises(LeaseLost, match="second has taken it over"):
        first.renew()
    with pytest.raises(LeaseLost), first.begin() as tx:
        tx.add_jobs([new_job(tx)])
    with pytest.raises(LeaseLost):
        first.add_token("h", "ada", "admin", "", None)
    assert second.jobs(ALL) == [] and second.tokens() == []
    assert add_job(second) == 1


def test_a_superseded_controller_stays_so_when_the_clock_jumps_back(opened: Opener, clock: Clock):
    first = opened("first")
    clock.now_s += 15
    opened("second")
    clock.now_s -= 1_000
    with pytest.raises(LeaseLost):
        first.renew()


def test_a_controller_whose_lease_ran_out_goes_on_while_nobody_has_taken_it(opened: Opener, clock: Clock):
    first = opened("first")
    clock.now_s += 1_000
    assert add_job(first) == 1
    with pytest.raises(Conflict):
        opened("second")


def test_a_takeover_waits_for_a_transaction_that_is_under_way(opened: Opener, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(database_module, "BUSY_S", 0.2)
    first = opened("first")
    with first.begin() as tx:
        tx.add_jobs([new_job(tx)])
        clock.now_s += 1_000
        with pytest.raises(StoreUnavailable):
            opened("second")
    clock.now_s += 1_000
    assert [job.id for job in opened("second").jobs(ALL)] == [1]


def test_a_lease_given_back_is_free_at_once(opened: Opener):
    opened("first").close()
    assert opened("second").epoch == 2


def test_two_controllers_that_open_a_new_store_at_once_do_not_both_get_it(url: str, clock: Clock):
    outcomes: list[object] = []

    def open_it(name: str) -> None:
        try:
            outcomes.append(Store.open(url, owner=name, now=clock))
        except (Conflict, StoreUnavailable) as refused:  # the latter: the winner's migration took longer than this one would wait
            outcomes.append(refused)

    threads = [threading.Thread(target=open_it, args=(f"c{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, Store)]
    assert len(outcomes) == 4
    won.close()


# ------------------------------------------------------------------------------------------------- owners that have died


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_lease_of_a_process_of_this_host_that_has_died_is_taken_at_once(opened: Opener):
    opened(f"{socket.gethostname()}:{dead_pid()}")
    assert opened("second").epoch == 2


def test_the_lease_of_a_process_of_this_host_that_lives_is_not(opened: Opener):
    opened(f"{socket.gethostname()}:{os.getppid()}")
    with pytest.raises(Conflict):
        opened("second")


def test_the_lease_of_a_process_of_another_host_is_not_whatever_its_pid(opened: Opener):
    opened(f"not-{socket.gethostname()}:{dead_pid()}")
    with pytest.raises(Conflict):
        opened("second")


def test_two_stores_of_one_process_exclude_each_other(opened: Opener):
    own = f"{socket.gethostname()}:{os.getpid()}"
    opened(own)
    with pytest.raises(Conflict):
        opened(own)


def test_a_predecessor_that_had_our_own_pid_is_dead(opened: Opener, url: str):
    """In a container the controller is always process 1."""
    name = f"{socket.gethostname()}:{os.getpid()}"
    opens = "Store.open(sys.argv[1], owner=sys.argv[2], now=lambda: 1e6)"
    program = f"import os, sys; from trainmaster.live.store import Store; held = {opens}; os._exit(0)"
    subprocess.run([sys.executable, "-c", program, url, name], check=True)
    assert opened(name).epoch == 2


# ------------------------------------------------------------------------------------------------- threads


def test_a_transaction_inside_another_of_the_same_thread_is_a_bug_not_a_deadlock(store: Store):
    with pytest.raises(InvariantBroken, match="inside another"), store.begin():
        store.add_token("h", "ada", "admin", "", None)
    assert store.add_token("h", "ada", "admin", "", None) == 1


def test_writers_of_several_threads_take_turns(store: Store):
    ids: list[int] = []

    def submit() -> None:
        ids.extend(add_job(store) for _ in range(5))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ids) == list(range(1, 21)) == [job.id for job in store.jobs(ALL)]


def test_readers_see_the_last_commit_and_never_wait_for_the_writer(store: Store):
    add_job(store)
    with store.begin() as tx:
        tx.add_jobs([new_job(tx)])
        tx.update_jobs([(1, {"reason": "changed"})])
        seen: list[object] = []
        reader = threading.Thread(target=lambda: seen.append([(job.id, job.reason) for job in store.jobs(ALL)]))
        reader.start()
        reader.join(timeout=60)
        assert seen == [[(1, "")]]
    assert [(job.id, job.reason) for job in store.jobs(ALL)] == [(1, "changed"), (2, "")]
