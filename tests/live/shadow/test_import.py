"""`trainmaster import --from slurm`: history as a trace, by an ordinary user's means, from a Slurm that may answer anything."""

import pytest

from trainmaster.live.backends import slurm_reading
from trainmaster.live.backends.slurm_reading import QUEUE_FORMAT
from trainmaster.workload.traces import load_trace
from trainmaster.workload.traces.sacct import FIELDS


def test_the_history_becomes_a_trace_that_simulate_replays(trainmaster, site, tmp_path):
    site.history(site.job(7, -3, -2.5, -1), site.job(8, -2, -1, -0.5, gpus=8), site.job(9, -1, None, None))

    answer = trainmaster("import", "--from", "slurm", "-o", "trace.txt", "--cluster-out", "nodes.txt")

    assert answer.status == 0, answer.err
    assert "3 jobs" in answer.err
    trace = load_trace(tmp_path / "trace.txt", "sacct")
    assert (trace.jobs.id.tolist(), trace.jobs.gpu_milli.tolist()) == (["7", "8"], [4_000, 8_000])
    assert trace.jobs.recorded_start_s.tolist() == [1_800, 2 * 3_600]
    assert dict(trace.skipped) == {"never started": 1}
    replay = trainmaster("simulate", "--trace", "trace.txt", "--cluster", "nodes.txt", "--policy", "recorded", "--json", "-")
    assert replay.json["cluster"]["types"] == {"a100": 8}
    assert replay.runs()[0]["avg_wait_s"] == pytest.approx((1_800 + 3_600) / 2)


def test_sacct_is_run_as_documented_and_nothing_else_is(trainmaster, site):
    site.history(site.job(7, -3, -2.5, -1))

    trainmaster("import", "--from", "slurm", "--since", "2026-11-01")

    assert site.calls == [
        ["scontrol", "show", "config"],
        ["sacct", "-a", "-X", "-P", "-S", "2026-11-01T00:00:00", "-o", ",".join(FIELDS)],
    ]


def test_without_accounting_one_line_says_so_and_the_trace_is_what_squeue_shows(trainmaster, site, tmp_path):
    site.config(accounting=False)
    site.queue(
        site.queued(1, -3, -2),  # runs
        site.queued(2, -1, -0.5, -0.01, gpus=2),
        site.queued(3, -1, None),
        site.queued(4, -1, -0.9, **{"tres-per-node": "N/A", "tres-per-job": "gres/gpu:a100=8"}),
        site.queued(5, -1, -0.9, NumTasks="3", **{"tres-per-node": "N/A", "tres-per-task": "gres:gpu:2"}),
        site.queued(6, -1, -0.9, **{"tres-per-node": "gres:gpu"}),  # --gres=gpu: one
        site.queued(7, -1, -0.9, **{"tres-per-node": "gres:gpu:a100"}),
        site.queued(8, -1, -0.9, **{"tres-per-node": "gres:gpu:1g.5gb:3"}),
    )

    answer = trainmaster("import", "--from", "slurm", "-o", "trace.txt")

    assert answer.status == 0, answer.err
    assert "accounting is off on theirs (no slurmdbd)" in answer.err.splitlines()[0] and "up --backend slurm --shadow" in answer.err
    jobs = load_trace(tmp_path / "trace.txt", "sacct").jobs
    assert dict(zip(jobs.id, jobs.gpu_milli // 1_000, strict=True)) == {
        "1": 4, "2": 2, "4": 8, "5": 6, "6": 1, "7": 1, "8": 3,
    }  # fmt: skip
    assert dict(zip(jobs.id, jobs.work, strict=True)) == pytest.approx({"1": 7_200, "2": 1_764, **dict.fromkeys("45678", 3_240)})
    assert ["squeue", "-h", "-a", "-r", "-t", "all", "-O", QUEUE_FORMAT] in site.calls and "sacct" not in {call[0] for call in site.calls}


def test_accounting_that_does_not_count_gpus_is_told(trainmaster, site):
    site.config(gpus=False)
    site.history(site.job(7, -3, -2.5, -1))

    assert "AccountingStorageTRES=gres/gpu" in trainmaster("import", "--from", "slurm").err


@pytest.mark.parametrize(
    "line",
    ["", "|" * 15, "x|" * 15 + "x", "1;rm -rf|" + "x|" * 14 + "x", "9" * 400 + "|" * 15, "\x1b[2J|" + "|" * 14],
    ids=["empty", "no id", "words", "a command", "a number without end", "an escape sequence"],
)
def test_a_line_that_is_no_job_is_counted_and_left_out(trainmaster, site, line):
    site.history(site.job(7, -3, -2.5, -1), line, site.job(8, -3, -2.5, -1))

    answer = trainmaster("import", "--from", "slurm")

    assert (answer.status, len(answer.out.splitlines())) == (0, 3)
    assert "2 jobs; 1 lines were no jobs" in answer.err


def test_output_that_is_not_sacct_s_is_refused_in_one_line(trainmaster, site):
    site.history(header="<html>sign in</html>")

    answer = trainmaster("import", "--from", "slurm", "-o", "trace.txt")

    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "<html>" in answer.err and "not the fields asked for" in answer.err


def test_output_without_end_is_cut_off(trainmaster, site, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_reading, "MOST_BYTES", 10_000)
    site.history(*(site.job(id, -3, -2, -1) for id in range(200)))

    answer = trainmaster("import", "--from", "slurm", "-o", "trace.txt")

    assert answer.status == 1 and "ask for less (--since)" in answer.err
    assert not (tmp_path / "trace.txt").exists()


def test_a_command_that_hangs_is_ended(trainmaster, site, monkeypatch):
    monkeypatch.setattr(slurm_reading, "LOOK_S", 0.5)
    site.slow("scontrol-show-config")

    answer = trainmaster("import", "--from", "slurm")

    assert answer.status == 1 and "scontrol show config: no end within 0.5 s" in answer.err


def test_what_a_command_complains_of_is_one_line_without_escape_sequences(trainmaster, site):
    (site.folder / "sacct.out").unlink()

    answer = trainmaster("import", "--from", "slurm")

    assert (answer.status, answer.err) == (1, "trainmaster: sacct: sacct: this must never be called\n")


def test_a_machine_without_slurm_is_told_in_one_line(trainmaster, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    answer = trainmaster("import", "--from", "slurm")

    assert answer.status == 1 and answer.err.count("\n") == 1 and "must be on the PATH" in answer.err


@pytest.mark.parametrize("since", ["tomorrow", "soon", "-1d", "2099-01-01", ""])
def test_a_since_that_is_not_in_the_past_is_bad_input(trainmaster, site, since):
    answer = trainmaster("import", "--from", "slurm", f"--since={since}")

    assert answer.status == 2 and answer.err.startswith("trainmaster: --since") and not site.calls
