"""`trainmaster.simulate(...)`: what the command takes, and data frames back."""

import pytest

import trainmaster
from trainmaster.cluster.spec import parse_cluster
from trainmaster.errors import InputError
from trainmaster.policies.shortest import Srtf
from trainmaster.workload.jobs import Job, JobTable

LONG, SHORT = Job(id="long", submit_s=0, gpus=4, work=100), Job(id="short", submit_s=10, gpus=4, work=20)


def test_jobs_go_in_and_frames_come_out(tmp_path):
    run = trainmaster.simulate([LONG, SHORT], cluster="1x4", policy=["fifo", Srtf()], restart_cost_s=0)

    assert run.runs.select("label", "avg_jct_s", "oracle").rows() == [("fifo", 105.0, False), ("srtf", 70.0, True)]
    assert run.jobs.filter(label="srtf").select("job_id", "finish_s").rows() == [("long", 120.0), ("short", 30.0)]
    assert run.timeline.filter(label="fifo").select("job_id", "start_s").rows() == [("long", 0.0), ("short", 100.0)]
    assert run.conclusion in str(run)
    assert run.document["trace"]["jobs"] == 2
    run.report(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


def test_every_way_to_say_the_same_gives_the_same(tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text("id,submit_s,gpus,work\nlong,0,4,100\nshort,10,4,20\n")
    traces = [path, str(path), [LONG, SHORT], iter([LONG, SHORT]), JobTable.of([LONG, SHORT])]
    runs = [trainmaster.simulate(trace, cluster=parse_cluster("1x4"), policy="srtf").jobs for trace in traces]

    assert all(run.equals(runs[0]) for run in runs)


def test_labels_and_settings():
    run = trainmaster.simulate(
        [LONG, SHORT],
        cluster="1x4",
        policy={"a": "las", "b": "las", "c": Srtf(blocking=True)},
        set={"a.quantum_s": 50, "b.quantum_s": 500.0},
        window=(0, 10),
        faults="mtbf=30d",
    )

    assert [summary["label"] for summary in run.summaries] == ["a", "b", "c"]
    assert [summary["params"].get("quantum_s") for summary in run.summaries] == [50, 500, None]
    assert run.summaries[2]["params"]["blocking"] is True
    assert run.runs["jobs"].to_list() == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"policy": "fifi"}, 'did you mean "fifo"?'),
        ({"policy": ["srtf", Srtf()]}, 'two policies are labelled "srtf"'),
        ({"policy": Srtf(), "set": {"srtf.blocking": True}}, "this policy is an instance"),
        ({"load": float("nan")}, "--load"),
        ({"cluster": None}, "--cluster"),
        ({"trace": []}, "no jobs"),
        ({"trace": "synthetic:x"}, "no synthetic workload"),
    ],
)
def test_bad_input_is_one_line(arguments, told):
    with pytest.raises(InputError, match=r"^[^\n]+$") as raised:
        trainmaster.simulate(**{"trace": [LONG, SHORT], "cluster": "1x4", **arguments})

    assert told in str(raised.value)
