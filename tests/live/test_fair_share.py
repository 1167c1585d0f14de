"""Fair share over time, by hand."""

from __future__ import annotations

from pathlib import Path

from live.test_controller import Site, spec
from trainmaster.live.fair_share import FairShare
from trainmaster.live.rules import Rules


def test_use_is_halved_every_half_life():
    share = FairShare(half_life_s=100.0)
    share.charge("ada", 800.0, now_s=1_000.0)
    share.charge("ada", 100.0, now_s=1_200.0)

    assert share.used_gpu_s == {"ada": 300.0}  # 800 is worth 200 by then


def test_who_has_used_more_than_is_owed_goes_behind_and_comes_back():
    share = FairShare(half_life_s=100.0)
    share.charge("ada", 900.0, now_s=1_000.0)
    share.charge("bob", 100.0, now_s=1_000.0)

    assert share.overuse(["ada", "bob", "eve"], {}, 1_000.0) == {"ada": 0.5, "bob": 0.0, "eve": 0.0}  # owed 333: ada had 2.7 times that
    assert share.overuse(["ada", "bob"], {"bob": 800.0}, 1_000.0) == {"ada": 0.0, "bob": 0.0}
    assert share.overuse(["ada", "eve"], {}, 2_000.0) == {}  # all is forgotten


def test_without_a_half_life_nobody_is_behind():
    share = FairShare(half_life_s=0.0)
    share.charge("ada", 900.0, now_s=1_000.0)

    assert share.overuse(["ada", "bob"], {}, 1_000.0) == {}


def test_of_two_waiting_jobs_that_of_the_user_who_has_used_less_goes_first(tmp_path: Path):
    site = Site(tmp_path, 1, rules=Rules(poll_s=0.0, min_run_s=0.0, fair_share_half_life_s=10_000.0))
    site.submit(spec(50), user="ada")
    site.until(10)
    (ada,) = site.submit(spec(20), user="ada")
    (bob,) = site.submit(spec(20), user="bob")
    site.until(60)

    assert site.machine.running() == {bob}  # though ada's job came first
    site.crash()
    assert site.controller.fair_share.used_gpu_s["ada"] > 40
    site.until(80)
    assert site.machine.running() == {ada}
    site.controller.store.close()


def test_a_higher_priority_goes_before_a_fair_share(tmp_path: Path):
    site = Site(tmp_path, 1, rules=Rules(poll_s=0.0, min_run_s=0.0, fair_share_half_life_s=10_000.0))
    site.submit(spec(50), user="ada")
    site.until(10)
    (ada,) = site.submit(spec(20, priority=1), user="ada")
    site.submit(spec(20), user="bob")
    site.until(60)

    assert site.machine.running() == {ada}
    site.controller.store.close()
