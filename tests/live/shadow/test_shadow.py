"""Shadow mode on a Slurm that is none: what it runs, what it sees, what it says of that."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from trainmaster.api.shadow import run
from trainmaster.api.shadow.replay import Question
from trainmaster.api.shadow.run import Shadow
from trainmaster.engine import loop
from trainmaster.errors import BackendError, InputError
from trainmaster.live.backends.slurm_history import of_sacct

from .site import HOUR

LOOKS = {("scontrol", "show", "config"), ("scontrol", "show", "partition"), ("scontrol", "show", "node"), ("squeue", "-h", "-a"),
         ("sacct", "-a", "-X")}  # fmt: skip


@pytest.fixture
def shadow(site, tmp_path):
    """Asked for what happened and for fifo. At the site's present."""
    asked = Question(policies=((None, "recorded"), (None, "fifo")))
    return Shadow(tmp_path / "shadow", asked, clock=lambda: site.now_s)


def looked(shadow):
    shadow.begin()
    shadow.look_back()
    shadow.look()
    return shadow


def wait_s(report, label):
    return next(one["avg_wait_s"] for one in report.summaries if one["label"] == label)


def test_the_command_looks_and_does_nothing_else(trainmaster, site, tmp_path, monkeypatch):
    site.history(site.job(1, -9, -8, -4), site.job(2, -8, -4, -3))
    waits(monkeypatch, interrupted)

    answer = trainmaster("up", "--backend", "slurm", "--shadow", "--state", str(tmp_path / "state"), "--policy", "recorded,fifo")

    assert answer.status == 0, answer.err
    assert {tuple(call[:3]) for call in site.calls} == LOOKS
    assert "recorded" in answer.out and "fifo has the least average JCT" in answer.out
    folder = tmp_path / "state/shadow"
    assert folder.stat().st_mode & 0o077 == 0
    assert "Content-Security-Policy" in (folder / "report.html").read_text()
    told = json.loads((folder / "report.json").read_text())
    assert [one["policy"] for one in told["runs"]] == ["recorded", "fifo"]
    assert not {path.name for path in (tmp_path / "state").iterdir()} - {"shadow"}  # no store, no token, no address


def interrupted(_):
    raise KeyboardInterrupt


def waits(monkeypatch, slept):
    """In place of waiting for the next look."""
    monkeypatch.setattr(run, "time", SimpleNamespace(time=time.time, monotonic=time.monotonic, strftime=time.strftime, sleep=slept))


def test_what_happened_is_the_baseline_and_policies_start_when_gpus_are_free(shadow, site):
    """Four GPUs a node: both jobs fit at once, but the second was held back two hours."""
    site.history(site.job(1, -9, -9, -4), site.job(2, -8, -6, -3, node="n2"))

    report = looked(shadow).report()

    assert (wait_s(report, "recorded"), wait_s(report, "fifo")) == (3_600, 0)
    assert "fifo" in report.conclusion


def test_a_report_can_be_repeated_by_the_command_that_it_names(shadow, site, trainmaster):
    site.history(site.job(1, -400, -8, -4), site.job(2, -8, -4, -3), site.job(3, -7, -3, None))
    site.queue(site.queued(3, -7, -3))
    shadow.question = replace(shadow.question, policies=(*shadow.question.policies, ("mine", "las")), settings=("mine.quantum_s=60",))
    report = looked(shadow).report()

    again = [trainmaster(*command.split()[1:], "--json", "-") for command in report.commands]

    assert [one.status for one in again] == [0, 0]
    figures = [{name: value for name, value in one.items() if name not in ("wall_s", "peak_rss_mib")} for one in report.summaries]
    assert json.loads(json.dumps(figures)) == [run for one in again for run in one.runs()]


def test_what_starts_once_is_charged_no_second_start_and_what_preempts_is(shadow, site):
    """A recorded run time has its start in it."""
    site.history(site.job(1, -8, -7, -6))
    shadow.question = replace(shadow.question, policies=tuple((None, name) for name in ("recorded", "fifo", "las")))

    report = looked(shadow).report()

    assert [one["avg_jct_s"] for one in report.summaries] == [2 * HOUR, HOUR, HOUR + 30]


def test_the_span_begins_with_what_really_ran_and_really_waited(shadow, site):
    """Submitted before the fourteen days: one ran when they began, one waited. Neither is measured, both are there."""
    day = 24.0
    site.history(site.job(1, -20 * day, -15 * day, -13 * day, gpus=8), site.job(2, -19 * day, -13 * day, -12 * day, gpus=8),
                 site.job(3, -13.5 * day, -12 * day, -11 * day, gpus=8))  # fmt: skip

    report = looked(shadow).report()
    rows = {row.id: row for row in shadow.history.trace().rows}
    began_s = site.now_s - 14 * day * HOUR

    assert rows[1].fields[5] == f"{site.now_s - 15 * day * HOUR:.0f}"  # as if submitted when it started
    assert rows[2].fields[5] == f"{began_s - 1:.0f}"
    assert [one["jobs"] for one in report.summaries] == [1, 1]
    assert wait_s(report, "recorded") == 1.5 * day * HOUR


def test_a_job_that_runs_holds_its_gpus_until_now_and_one_that_waits_is_only_counted(shadow, site):
    site.history(site.job(1, -3, -2, None), site.job(2, -2, None, None))
    site.nodes(n1=4, n2=4, used=2)
    site.queue(site.queued(1, -3, -2), site.queued(2, -2, None), site.queued(3, -1, None, gpus=2), site.queued(3, -1, None, gpus=2))

    looked(shadow)

    (row,) = shadow.history.trace().rows
    assert (row.id, row.state, row.end_s) == (1, "SEEN", site.now_s)
    assert str(shadow.present) == "8 GPUs on 2 nodes, 4 in use; jobs: 1 running, 3 waiting for 8 GPUs"


def test_a_job_that_runs_for_accounting_alone_is_left_out(shadow, site):
    site.history(site.job(1, -30, -29, None), site.job(2, -8, -4, -3))

    looked(shadow)

    assert [row.id for row in shadow.history.trace().rows] == [2]
    assert any("sacctmgr show runaway" in note for note in shadow.notes())


def test_what_private_data_hides_is_told_by_what_the_nodes_hold(shadow, site):
    site.config(private="jobs,usage")
    site.nodes(n1=4, n2=4, used=3)
    site.queue(site.queued(1, -3, -2, gpus=2))

    (said,) = [note for note in looked(shadow).notes() if "PrivateData" in note]

    assert said.startswith("PrivateData=jobs,usage hides the jobs of others: 4 of 6 GPUs in use are held by jobs that you cannot see")


@pytest.mark.parametrize(
    ("private", "used", "said"),
    [
        ("none", 2, "PrivateData=none: nothing about jobs is hidden; every GPU in use is held by a job that is seen"),
        ("jobs", 2, "PrivateData=jobs hides the jobs of others from ordinary users; at this moment no GPU"),
        ("users", 4, "4 of 8 GPUs in use are held by no job that is seen"),
    ],
)
def test_nothing_is_said_to_be_hidden_that_is_not(shadow, site, private, used, said):
    site.config(private=private)
    site.nodes(n1=4, n2=4, used=used)
    site.queue(site.queued(1, -3, -2, gpus=4))

    assert [note for note in looked(shadow).notes() if note.startswith(said)]


def test_jobs_that_accounting_hides_are_told(shadow, site):
    """PrivateData of slurmdbd.conf is not in `scontrol show config`."""
    site.history(site.job(1, -8, -4, -3))
    site.queue(site.queued(2, -3, -2, user="bob"))

    assert any("1 running jobs are in squeue, not in sacct" in note for note in looked(shadow).notes())
    assert {row.id for row in shadow.history.trace().rows} == {1, 2}


def test_without_accounting_history_grows_as_it_watches(shadow, site):
    site.config(accounting=False)
    site.queue(site.queued(1, -0.05, -0.04))
    looked(shadow)
    assert "no slurmdbd" in shadow.notes()[0] and "sacct" not in {call[0] for call in site.calls}

    site.now_s += HOUR
    site.queue(site.queued(1, -1.05, -1.04, -0.5), site.queued(2, -0.9, -0.2))
    shadow.look()
    site.now_s += HOUR
    site.queue()  # both are gone, the second unseen
    shadow.look()

    rows = {row.id: row for row in shadow.history.trace().rows}
    assert {id: (row.state, row.end_s) for id, row in rows.items()} == {
        1: ("COMPLETED", site.now_s - 1.5 * HOUR), 2: ("SEEN", site.now_s - HOUR)}  # fmt: skip


def test_what_was_watched_is_taken_up_by_the_next_start(shadow, site, tmp_path):
    site.config(accounting=False)
    site.queue(site.queued(1, -0.05, -0.04))
    looked(shadow).keep()
    began_s = shadow.history.since_s
    site.now_s += 200  # squeue still shows what ended meanwhile
    site.queue()

    later = looked(Shadow(tmp_path / "shadow", Question(), clock=lambda: site.now_s))

    assert (later.history.since_s, list(later.history.rows)) == (began_s, [1])


def test_after_a_gap_it_begins_anew(shadow, site, tmp_path):
    site.config(accounting=False)
    site.queue(site.queued(1, -0.05, -0.04))
    looked(shadow).keep()
    site.now_s += HOUR
    site.queue()

    later = looked(Shadow(tmp_path / "shadow", Question(), clock=lambda: site.now_s))

    assert (later.history.since_s, later.history.rows) == (site.now_s - 300, {})


def test_slow_accounting_makes_a_shorter_first_report_and_a_whole_second_one(shadow, site, monkeypatch):
    site.history(site.job(1, -9, -8, -4))
    asked = []
    whole = shadow.reading.accounting

    def accounting(since_s, into, within_s):
        asked.append((round((site.now_s - since_s) / HOUR), within_s))
        if site.now_s - since_s > 100 * HOUR and within_s < 60:
            raise run.TookTooLong("sacct: no end within 12 s")
        whole(since_s, into, within_s)

    monkeypatch.setattr(shadow.reading, "accounting", accounting)
    looked(shadow).report()
    shadow.look_back()
    site.now_s += HOUR
    shadow.look_back()

    assert asked == [(336, 12.0), (84, 12.0), (336, 600.0), (2, 600.0)]  # then what is new alone
    assert shadow.history.since_s == site.now_s - 336 * HOUR


def test_accounting_that_fails_is_told_and_squeue_serves(shadow, site):
    (site.folder / "sacct.out").unlink()
    site.queue(site.queued(1, -0.05, -0.04))

    looked(shadow)

    assert any(note.startswith("accounting: sacct: ") for note in shadow.notes())
    assert [row.id for row in shadow.history.trace().rows] == [1]


def test_the_first_report_takes_the_latest_jobs_of_a_long_history(shadow, site, monkeypatch):
    monkeypatch.setattr(run, "MOST_FIRST", 2)
    site.history(*(site.job(id, -9 + id, -9 + id, -8 + id) for id in range(1, 6)))

    first, second = (looked(shadow).report() for _ in range(2))

    assert [report.summaries[0]["jobs"] for report in (first, second)] == [2, 5]


def test_a_policy_that_is_not_done_in_time_is_left_out_of_the_first_report_alone(shadow, site, monkeypatch):
    monkeypatch.setattr(run, "WITHIN_FIRST_S", 0.0)
    monkeypatch.setattr(loop, "PROGRESS_EVERY", 1)
    site.history(site.job(1, -9, -8, -4), site.job(2, -9, -8, -4), site.job(3, -5, -4, -3))
    with pytest.raises(InputError, match="no policy was done within 0 s"):
        looked(shadow).report()

    assert len(shadow.report().summaries) == 2


def test_nodes_that_are_down_now_were_capacity_for_what_ran_there(shadow, site):
    text = (site.folder / "scontrol-show-node.out").read_text()
    (site.folder / "scontrol-show-node.out").write_text(text.replace("State=MIXED", "State=DOWN*+DRAIN"))
    site.history(site.job(1, -9, -8, -4))

    report = looked(shadow).report()

    assert (shadow.folder / "cluster.yaml").read_text().count("a100") == 1
    assert report.summaries[0]["finished"] == 1


def test_policies_that_refuse_the_trace_are_left_out_unless_asked_for(shadow, site):
    site.history(*(site.job(id, -9 + id, -8 + id, -7 + id, limit="" if id == 1 else "UNLIMITED") for id in (1, 2)))
    everything = replace(shadow.question, policies=())
    shadow.question = everything

    report = looked(shadow).report()

    assert "easy-backfill" not in {one["label"] for one in report.summaries} >= {"recorded", "fifo", "tiresias-las", "srtf"}
    assert any(note.startswith("easy-backfill left out") for note in report.notes)
    assert any("stop running jobs, which must checkpoint" in note for note in report.notes)
    shadow.question = replace(everything, policies=((None, "easy-backfill"),))
    with pytest.raises(InputError, match="limit"):
        shadow.report()


def test_the_site_s_own_order_becomes_a_slurm_conf(shadow):
    looked(shadow)

    assert (shadow.folder / "slurm.conf").read_text().splitlines() == [
        "PriorityCalcPeriod=5", "PriorityType=priority/multifactor", "PriorityWeightAge=1000",
        "SchedulerParameters=bf_interval=60,bf_window=2880", "PartitionName=main PriorityTier=3 MaxTime=2-00:00:00",
    ]  # fmt: skip


def test_nothing_to_compare_is_no_failure(trainmaster, site, tmp_path, monkeypatch):
    waits(monkeypatch, interrupted)

    answer = trainmaster("up", "--backend", "slurm", "--shadow", "--state", str(tmp_path / "state"))

    assert answer.status == 0 and "nothing to compare yet" in answer.out


def test_slurm_that_does_not_answer_at_first_is_an_error_and_later_trouble_is_said_once(trainmaster, site, tmp_path, monkeypatch, shadow):
    looked(shadow)
    (site.folder / "squeue.out").unlink()
    with pytest.raises(BackendError):
        shadow.look()
    said, rounds = [], iter(range(3))

    def slept(_):
        if next(rounds, None) is None:
            raise KeyboardInterrupt

    waits(monkeypatch, slept)
    with pytest.raises(KeyboardInterrupt):
        run._watch(shadow, said.append, said.append, 100, False)
    assert len(said) == 1 and said[0].endswith("looking again")

    answer = trainmaster("up", "--backend", "slurm", "--shadow", "--state", str(tmp_path / "state"))

    assert answer.status == 1 and answer.err.splitlines()[-1].startswith("trainmaster: squeue: ")


@pytest.mark.parametrize("flags", [["--port", "1"], ["--host", "0.0.0.0"], ["--slots", "2"], ["--store", "x"], ["--insecure"]])
def test_flags_that_a_shadow_has_no_use_for_are_refused(trainmaster, site, tmp_path, flags):
    answer = trainmaster("up", "--backend", "slurm", "--shadow", "--state", str(tmp_path / "state"), *flags)

    assert answer.status == 2 and flags[0].strip("-") in answer.err and not site.calls


def test_since_without_a_shadow_is_refused(trainmaster, tmp_path):
    assert "--since" in trainmaster("up", "--since", "3d", "--state", str(tmp_path / "state")).err


def test_of_an_id_that_was_used_again_the_last_submission_counts(site):
    site.history(site.job(7, -9, -8, -7), site.job(7, -3, -2, -1))

    (row,) = of_sacct(iter((site.folder / "sacct.out").read_text().splitlines())).by_id.values()

    assert row.end_s == site.now_s - HOUR
