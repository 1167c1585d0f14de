"""Files that are no traces, or broken ones: one line that names file, line and field, whatever the bytes; never a traceback."""

import gzip
import io
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainmaster.errors import TraceError
from trainmaster.workload.traces import formats, load_trace
from trainmaster.workload.traces import source as source_module
from trainmaster.workload.traces.sacct import COMMAND

SAMPLES = {path.stem: path for path in sorted((Path(__file__).parent / "samples").iterdir())}
FORMATS = sorted(SAMPLES)
SEPARATORS = {"sacct": "|", "gavel": "\t", "swf": None}
ANY_FILE = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Where each format keeps submission, GPUs and work: (name, position) in the file.
SUBMIT = {
    "philly": ("timestamp", 0),
    "tiresias": ("submit_time", 2),
    "muri": ("submit_time", 2),
    "pollux": ("time", 1),
    "gavel": ("arrival", 9),
    "helios": ("submit_time", 8),
    "lucid": ("submit_time", 7),
    "pai2020": ("submit_time", 5),
    "openb": ("creation_time", 8),
    "elasticflow": ("submit_time", 1),
    "synergy": ("arrival", 2),
    "swf": ("submit", 1),
    "sacct": ("Submit", 5),
    "trainmaster": ("submit_s", 1),
}
GPUS = {
    "philly": ("num_gpus", 2),
    "tiresias": ("num_gpu", 1),
    "muri": ("num_gpu", 1),
    "pollux": ("num_replicas", 3),
    "gavel": ("scale factor", 6),
    "helios": ("gpu_num", 4),
    "lucid": ("gpu_num", 4),
    "pai2020": ("num_gpu", 2),
    "openb": ("num_gpu", 3),
    "elasticflow": ("num_gpu", 6),
    "synergy": ("gpus", 4),
    "swf": ("allocated", 4),
    "trainmaster": ("gpus", 2),
}
WORK = {
    "philly": ("duration", 1),
    "tiresias": ("duration", 5),
    "muri": ("iteration_time", 8),
    "gavel": ("steps", 5),
    "helios": ("duration", 11),
    "lucid": ("duration", 8),
    "pai2020": ("duration", 6),
    "openb": ("deletion_time", 9),
    "elasticflow": ("duration", 7),
    "synergy": ("iterations", 3),
    "swf": ("run", 3),
    "sacct": ("ElapsedRaw", 9),
    "trainmaster": ("work", 3),
}


def refused(path: Path, format: str = "auto") -> str:
    """The complaint about a file: a line that begins with its path."""
    with pytest.raises(TraceError) as caught:
        load_trace(path, format)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and message.isprintable()
    return message.removeprefix(str(path))


def edited(format: str, line: int, position: int, value: str, folder: Path) -> Path:
    """The sample with one field of one line changed; lines count from 1."""
    separator = SEPARATORS.get(format, ",")
    lines = SAMPLES[format].read_text().split("\n")
    fields = lines[line - 1].split(separator)
    fields[position] = value
    lines[line - 1] = (separator or " ").join(fields)
    path = folder / f"{format}.log"
    path.write_text("\n".join(lines))
    return path


def last_line(format: str) -> int:
    return len(SAMPLES[format].read_text().splitlines())


@pytest.mark.parametrize("format", ["auto", *FORMATS])
@pytest.mark.parametrize(
    "data",
    {
        "empty": b"",
        "blank": b"\n\n\n",
        "spaces": b"   \n \n",
        "noise": bytes(range(256)) * 40,
        "text": b"the quick brown fox\njumps over the lazy dog\n",
        "nul": b"job_id,num_gpu,submit_time,duration\n1,1,0,\x0010\n",
        "latin-1": b"job_id,num_gpu,submit_time,duration\n1,1,0,10\xe9\n",
        "utf-16": "job_id,num_gpu\n1,2\n".encode("utf-16"),
        "binary": b"\x7fELF\x02\x01\x01" + b"\x00" * 90,
        "pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
        "parquet, cut": b"PAR1" + b"\x15\x04" * 20,
        "parquet, hollow": b"PAR1" + b"\x00" * 60 + b"\x10\x00\x00\x00PAR1",
        "zip": b"PK\x03\x04" + b"\x00" * 40,
        "gzip of noise": gzip.compress(bytes(range(256))),
        "gzip, cut": gzip.compress(b"job_id,num_gpu,submit_time,duration\n" + b"1,1,0,10\n" * 9999)[:60],
        "gzip, damaged": gzip.compress(b"a,b\n" * 99)[:12] + b"\xff" * 40,
        "gzip header alone": b"\x1f\x8b",
        "unclosed quote": b'job_id,num_gpu,submit_time,duration\n"1,1,0,10\n2,1,0,10\n',
        "json, deep": b"[" * 5000,
        "json, no jobs": b'[{"attempts": 1, "submitted_time": 2}]',
        "long line": b"x" * 300_000,
    }.items(),
    ids=lambda item: item[0],
)
def test_what_is_no_trace_is_refused_in_one_line(data, format, tmp_path):
    (tmp_path / "log").write_bytes(data[1])

    refused(tmp_path / "log", format)


def test_missing_files_and_folders(tmp_path):
    assert "no such file" in refused(tmp_path / "none.csv")
    assert "is a directory" in refused(tmp_path)


@pytest.mark.parametrize("format", WORK)
def test_negative_work_is_refused_or_counted(format, tmp_path):
    field, position = WORK[format]
    line = last_line(format)
    path = edited(format, line, position, "-5", tmp_path)

    if format == "swf":  # -1 is absent there, and so is anything below 0
        assert load_trace(path).skipped["no run time"] == 2
    else:
        assert refused(path) == f':{line}: {field}: "-5" is below 0'


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "four", "0x10", "1_000", "1,5"])
@pytest.mark.parametrize("format", WORK)
def test_work_that_is_no_finite_number_is_refused(format, value, tmp_path):
    if format == "trainmaster" and value in ("inf", "1e400"):
        pytest.skip("infinite work is a service there")
    line = last_line(format)

    assert f":{line}: " in refused(edited(format, line, WORK[format][1], value, tmp_path), format)


@pytest.mark.parametrize("format", SUBMIT)
def test_an_unreadable_submission_is_refused(format, tmp_path):
    field, position = SUBMIT[format]
    line = last_line(format)

    assert refused(edited(format, line, position, "yesterday", tmp_path), format).startswith(f':{line}: {field}: "yesterday" is not a')


@pytest.mark.parametrize("format", SUBMIT)
def test_a_submission_that_is_missing_is_refused(format, tmp_path):
    field, position = SUBMIT[format]
    line = last_line(format)
    if format == "swf":
        pytest.skip("a blank more or less is nothing there")

    assert refused(edited(format, line, position, " ", tmp_path), format) == f":{line}: {field}: is missing"


@pytest.mark.parametrize("format", GPUS)
def test_gpus_that_are_no_number_are_refused(format, tmp_path):
    field, position = GPUS[format]
    line = last_line(format)

    message = refused(edited(format, line, position, "four", tmp_path), format)

    assert message in (f':{line}: {field}: "four" is not a whole number', f':{line}: {field}: "four" is not a finite number')


@pytest.mark.parametrize("format", GPUS)
def test_absurd_gpus_are_refused(format, tmp_path):
    line = last_line(format)

    assert refused(edited(format, line, GPUS[format][1], "99999999", tmp_path), format).startswith(f":{line}: {GPUS[format][0]}: ")


@pytest.mark.parametrize("format", ["tiresias", "muri", "pollux", "gavel", "elasticflow", "synergy"])
def test_a_job_of_no_gpus_is_refused_where_jobs_have_no_cpus(format, tmp_path):
    line = last_line(format)

    assert refused(edited(format, line, GPUS[format][1], "0", tmp_path)) == f':{line}: {GPUS[format][0]}: "0" is below 1'


def test_our_own_format_refuses_a_job_that_asks_for_nothing(tmp_path):
    (tmp_path / "mine.csv").write_text("submit_s,gpus,cpus,work\n0,1,0,60\n5,0,0,60\n")

    assert refused(tmp_path / "mine.csv") == ':3: gpus: "0" and no CPU: the job asks for nothing'


def test_a_gang_that_its_nodes_do_not_hold_evenly_is_named(tmp_path):
    (tmp_path / "mine.csv").write_text("submit_s,gpus,work,nodes\n0,4,60,2\n5,4,60,3\n")

    with pytest.raises(TraceError, match=r'mine.csv:3: nodes: "3" nodes do not hold its GPUs evenly'):
        load_trace(tmp_path / "mine.csv")

    (tmp_path / "mine.csv").write_text("submit_s,gpus,work,nodes\n0,4,60,2\n5,4,60,\n")
    assert list(load_trace(tmp_path / "mine.csv").jobs.nodes) == [2, 0]


def test_our_own_format_suggests_the_column_meant(tmp_path):
    (tmp_path / "mine.csv").write_text("submit_s,gpus,work,memory_gb\n0,1,60,8\n")

    assert refused(tmp_path / "mine.csv") == ':1: no column is named "memory_gb"; did you mean "memory_gib"?'


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in ("philly", "philly-json", "gavel")])
def test_an_id_that_repeats_is_refused_with_both_lines(format, tmp_path):
    line = last_line(format)
    id = SAMPLES[format].read_text().split("\n")[line - 2].split(SEPARATORS.get(format, ","))[0]

    message = refused(edited(format, line, 0, id, tmp_path))

    assert message.startswith(f":{line}: ") and message.endswith(f'"{id}" is there twice (first in line {line - 1})')


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in ("philly-json", "swf")])
def test_a_row_cut_short_or_too_long_is_refused(format, tmp_path):
    text, line = SAMPLES[format].read_text().rstrip("\n"), last_line(format)
    separator = SEPARATORS.get(format, ",")
    (tmp_path / "short").write_text(text.rpartition(separator)[0])
    (tmp_path / "long").write_text(text + f"{separator}1{separator}2")

    assert f":{line}: " in (short := refused(tmp_path / "short", format)) and "fields where" in short
    assert f":{line}: " in refused(tmp_path / "long", format)


def test_lines_are_counted_past_quoted_line_ends(tmp_path):
    header, first, second = "jobname,gpu_num,submit_time,duration", '"two\nlines",1,2020-04-01 00:00:00,5', "b,four,2020-04-01 00:00:00,5"
    (tmp_path / "log.csv").write_text(f"{header}\n{first}\n\n{second}\n")

    assert refused(tmp_path / "log.csv") == ':5: gpu_num: "four" is not a whole number'


def test_another_format_than_asked_for_is_named(tmp_path):
    message = refused(SAMPLES["tiresias"], "helios")

    assert message.startswith(': has no column "gpu_num" (its columns: "job_id", "num_gpu",')
    assert message.endswith("; it looks like format tiresias")


def test_a_csv_of_no_known_format_is_told_what_it_lacks(tmp_path):
    (tmp_path / "log.csv").write_text("job_id,vc,gpu_num,submit_time,seconds\n1,a,1,2020-04-01 00:00:00,5\n")

    assert 'is no trace format that is known here; nearest is helios, which also needs column "duration"' in refused(tmp_path / "log.csv")


def test_a_file_that_may_be_two_formats_is_asked_about(tmp_path):
    (tmp_path / "log.csv").write_text("num_gpu,submit_time,duration,ddl,num_inst\n1,0,5,9,1\n")

    assert refused(tmp_path / "log.csv") == ": may be elasticflow or pai2020; say which with --format"


def test_a_trace_of_which_nothing_is_left_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("gpu_num,cpu_num,submit_time,duration\n0,0,2020-04-01 00:00:00,5\n1,1,2020-04-01 00:00:00,0\n")

    assert refused(tmp_path / "log.csv") == ": no job can be replayed; rows left out: asks for nothing 1, zero-length 1"


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in ("philly-json", "gavel", "synergy", "swf")])
def test_a_header_alone_is_refused(format, tmp_path):
    (tmp_path / "log").write_text(SAMPLES[format].read_text().split("\n")[0] + "\n")

    assert "has no jobs" in refused(tmp_path / "log", format)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("num_gpu,submit_time,duration,duration\n1,0,5,9\n")

    assert refused(tmp_path / "log.csv") == ':1: has more than one column "duration"'


def test_sacct_without_its_columns_is_told_the_command(tmp_path):
    (tmp_path / "log").write_text("JobID|State|Submit\n1|COMPLETED|2024-01-01T00:00:00\n")

    assert refused(tmp_path / "log").endswith(f"lacks Start and End, AllocTRES or ReqTRES; the file is made by: {COMMAND}")


def test_a_bomb_is_refused_before_it_is_unpacked_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(source_module, "CHUNK_BYTES", 1 << 18)
    (tmp_path / "log").write_bytes(gzip.compress(b"job_id,num_gpu,submit_time,duration\n" + b"1,1,0,10\n" * 400_000))

    assert "GiB unpacked" in refused(tmp_path / "log")


def test_swf_header_of_absurd_size_is_refused(tmp_path):
    (tmp_path / "log.swf").write_text("; MaxProcs: 99999999999\n1 0 0 60 1 -1 -1 1 -1 -1 1 -1 -1 -1 -1 -1 -1 -1\n")

    assert refused(tmp_path / "log.swf") == ":1: MaxProcs: 99999999999 is above 1e+06"


@pytest.mark.parametrize(
    "job",
    [
        {"attempts": None},
        {"attempts": [None]},
        {"attempts": [{"detail": 7}]},
        {"attempts": [{"detail": [{"ip": "m1"}]}]},
        {"attempts": [{"detail": [{"gpus": 3}]}]},
        {"attempts": [{"start_time": 5, "detail": []}]},
        {"attempts": [], "submitted_time": {}},
        7,
    ],
)
def test_philly_jobs_of_another_shape_are_refused(job, tmp_path):
    (tmp_path / "log.json").write_text(json.dumps([{"jobid": "a", "attempts": [], "submitted_time": "2017-10-07 01:11:39"}, job]))

    assert refused(tmp_path / "log.json", "philly-json").startswith(": job 2: ")


def test_parquet_of_other_types_is_refused(tmp_path):
    pl.DataFrame({"submit_s": [0.0], "gpus": [[1]], "work": [{"a": 1}]}).write_parquet(tmp_path / "jobs")

    assert "where text or numbers belong" in refused(tmp_path / "jobs")


def test_parquet_rows_are_named(tmp_path):
    pl.DataFrame({"submit_s": [0.0, 1.0], "gpus": [1, -1], "work": [5.0, 5.0]}).write_parquet(tmp_path / "jobs")

    assert refused(tmp_path / "jobs") == ': row 2: gpus: "-1" is below 0'


@ANY_FILE
@given(data=st.binary(max_size=400), format=st.sampled_from(["auto", *formats()]))
def test_random_bytes_are_refused(data, format, tmp_path):
    (tmp_path / "log").write_bytes(data)

    refused(tmp_path / "log", format)


@ANY_FILE
@given(format=st.sampled_from(FORMATS), edits=st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=6)), min_size=1, max_size=4))
def test_a_sample_with_random_bytes_in_it_is_read_or_refused(format, edits, tmp_path):
    data = bytearray(SAMPLES[format].read_bytes())
    for at, put in edits:
        data[at : at + len(put)] = put
    (tmp_path / "log").write_bytes(data)

    try:
        trace = load_trace(tmp_path / "log", format)
    except TraceError as error:
        assert "\n" not in str(error)
    else:
        assert len(trace.jobs) > 0


def test_parquet_whose_decoding_ends_the_process_is_refused(tmp_path):
    buffer = io.BytesIO()
    pl.read_csv(SAMPLES["trainmaster"]).write_parquet(buffer)
    data = buffer.getvalue()
    page = data.index(bytes.fromhex("2c1528"))  # the header of a data page, which holds 20 values
    (tmp_path / "log").write_bytes(data[: page + 2] + b"\x57" + data[page + 3 :])  # -44 values

    assert "is not a Parquet file that can be read" in refused(tmp_path / "log", "trainmaster")


@ANY_FILE
@given(cut=st.integers(1, 2000), flip=st.integers(0, 2000), value=st.integers(0, 255))
def test_damaged_parquet_is_read_or_refused(cut, flip, value, tmp_path):
    buffer = io.BytesIO()
    pl.read_csv(SAMPLES["trainmaster"]).write_parquet(buffer)
    data = bytearray(buffer.getvalue())
    data[flip % len(data)] = value
    (tmp_path / "log").write_bytes(data[: max(8, len(data) - cut % 7)])

    try:
        load_trace(tmp_path / "log", "trainmaster")
    except TraceError as error:
        assert "\n" not in str(error)
