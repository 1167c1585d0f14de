"""Every public trace in the folder named by TRAINMASTER_DATA: known by its content, and every job there."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from trainmaster.errors import TraceError
from trainmaster.workload.traces import load_trace

DATA = os.environ.get("TRAINMASTER_DATA")
FOLDER = Path(DATA or "")
TRACES = {
    "philly": ["sia/traces/philly.csv"],
    "pollux": ["sia/workloads/*/*.csv"],
    "tiresias": ["tiresias/*_job.csv"],
    "gavel": ["gavel/traces/*.trace"],
    "muri": ["muri/traces/*", "muri/micro/*"],
    "elasticflow": ["elasticflow/traces/*", "elasticflow/micro/*.csv"],
    "pai2020": ["pai/*.csv.gz"],
    "openb": ["openb/openb_pod_list_*"],
    "lucid": ["lucid/*/cluster_full_log.csv.gz"],
    "synergy": ["synergy/syn*.csv"],
    "swf": ["swf/*.swf.gz"],
}
UNREADABLE = {"tf_job.csv": "there twice", **{f"openb_pod_list_multigpu{share}.csv.gz": "creation_time" for share in (20, 30, 40, 50)}}
NO_HEADER = ("gavel", "synergy")

pytestmark = pytest.mark.skipif(DATA is None, reason="TRAINMASTER_DATA does not name the folder of public traces")
FILES = [(format, path) for format, globs in TRACES.items() for glob in globs for path in sorted(FOLDER.glob(glob))] if DATA else []


def lines(path: Path) -> list[str]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [line for line in text.split("\n") if line.strip()]


def test_no_kind_of_trace_is_missing():
    assert {format for format, _ in FILES} == set(TRACES)


@pytest.mark.parametrize(("format", "path"), FILES, ids=lambda value: value.name if isinstance(value, Path) else "")
def test_every_file_is_known_and_whole(format, path):
    if problem := UNREADABLE.get(path.name):
        with pytest.raises(TraceError, match=problem):
            load_trace(path)
        return

    trace = load_trace(path)

    rows = [line for line in lines(path) if not line.startswith(";")][0 if format in (*NO_HEADER, "swf") else 1 :]
    assert trace.format == format
    assert len(trace.jobs) + sum(trace.skipped.values()) == len(rows)
    assert trace.skipped.keys() <= {"never scheduled"}


def test_philly():
    jobs = load_trace(FOLDER / "sia/traces/philly.csv").jobs

    assert len(jobs) == 82_247
    assert [int((jobs.gpus == gpus).sum()) for gpus in (1, 2, 4, 8, 128)] == [76_627, 1_818, 1_870, 1_643, 3]
    assert (np.median(jobs.work), jobs.work.max()) == (1144, 4_628_226)
    assert jobs.submit_s[-1] == (109 * 24 - 10 + 8) * 3600 + (2 - 30) * 60 + 11 - 41  # 2017-09-04 10:30:41 .. 12-22 08:02:11
    assert len(jobs.queue.names) == 15


def test_muri_work_is_what_its_simulator_ran():
    jobs = load_trace(FOLDER / "muri/micro/overhead2.csv").jobs

    assert jobs.work[0] == pytest.approx(1086.05)


def test_pai_matches_the_request_in_hundredths_that_its_simulator_logged():
    jobs = load_trace(FOLDER / "pai/pai_openb4000_40perminute.csv.gz").jobs

    assert len(jobs) == 4_000
    assert (jobs.gpu_milli % 10 == 0).all()
    assert jobs.estimates.keys() == {"user_dur", "group_dur", "group_gpu_dur"}


def test_swf_clusters():
    trace = load_trace(FOLDER / "swf/lublin256.swf.gz")

    assert trace.cluster is not None and (len(trace.cluster.nodes), trace.cluster.gpus) == (256, 256)
    assert len(trace.jobs) == 10_000 and not np.isnan(trace.jobs.limit_s).any()


NOT_TRACES = (
    "openb/openb_node_list_all_node.csv.gz",
    "lucid/single_data.csv",
    "lucid/venus/Venus_Sept_lgb.csv.gz",
    "tiresias/n32g4.csv",
    "tiresias/yarn-gput1000.csv",
    "tiresias/reference_jobs/60_n4g4_fifo_yarn.csv.gz",
    "muri/stage_profile.csv",
    "elasticflow/cluster_specs/n8g8.csv",
    "synergy/model_profiles.json",
    "gavel/simulation_throughputs.json",
    "sia/profiles/bert/placements.csv",
    "sia/README.md",
)


@pytest.mark.parametrize("name", NOT_TRACES)
def test_what_is_not_a_trace_is_refused(name):
    with pytest.raises(TraceError, match="is no trace format that is known here"):
        load_trace(FOLDER / name)
