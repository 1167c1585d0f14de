"""Lengths of time, memory, GPUs, arrays, dependencies, signals and moments: text to values, and one line for what is neither."""

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainmaster.errors import InputError
from trainmaster.live.submission.arrays import array
from trainmaster.live.submission.dependencies import Awaited, dependencies
from trainmaster.live.submission.durations import duration_s, limit_s
from trainmaster.live.submission.gpus import Gpus, gpus, gres
from trainmaster.live.submission.memory import memory_gib, memory_range_gib
from trainmaster.live.submission.moments import moment_s
from trainmaster.live.submission.signals import signal_number, stop_signal

from .asking import NOW_S

HOSTILE = [
    "", " ", "-", "--", "-1", "+1", "1e9", "nan", "inf", "٣", "½", "0x10", "1_000", "9" * 400, "a" * 10_000, "\0", "\x1b[31m", "1\n2", "=",
    ",", ":", "::", "..", "%", "1..2..3", "1-2-3-4", "{}", "[]", "$(id)", "`id`", "; rm -rf /", "../..",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("90", 5_400), ("1:30", 90), ("1:30:00", 5_400), ("2-00", 172_800), ("1-12:30", 131_400), ("1-12:00:00", 129_600),
        ("2h", 7_200), ("1d12h", 129_600), ("1h30m", 5_400), ("1.5h", 5_400), ("45s", 45), ("1w", 604_800), ("10min", 600), ("0", 0),
    ],
)  # fmt: skip
def test_a_length_of_time_as_slurm_and_as_people_write_it(text, expected_s):
    assert duration_s(text, "-t") == expected_s


def test_a_bare_number_counts_what_its_option_says_and_no_limit_is_none():
    assert duration_s("90", "--grace", bare_s=1.0) == 90
    assert [limit_s(word, "-t") for word in ("UNLIMITED", "infinite", "off", "-1")] == [None] * 4


@given(st.integers(0, 3_000), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_what_slurm_prints_is_read_as_it_was(days, hours, minutes, seconds):
    assert duration_s(f"{days}-{hours:02}:{minutes:02}:{seconds:02}", "-t") == days * 86_400 + hours * 3_600 + minutes * 60 + seconds


@pytest.mark.parametrize(
    ("text", "expected_gib"),
    [("8G", 8), ("512M", 0.5), ("512", 0.5), ("80GB", 80), ("80gib", 80), ("1.5T", 1_536), ("1048576K", 1), ("16G+", 16)],
)
def test_a_size_of_memory(text, expected_gib):
    assert memory_gib(text, "--mem") == expected_gib


def test_a_range_of_memory():
    assert memory_range_gib("40GB..80GB", "gpu") == (40, 80)
    assert memory_range_gib("40GB..", "gpu") == (40, None)
    with pytest.raises(InputError, match="is not a range"):
        memory_range_gib("80GB..40GB", "gpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4", Gpus(count=4)),
        ("0.5", Gpus(count=0.5)),
        ("0", Gpus(count=0)),
        ("a100:4", Gpus(count=4, types=("a100",))),
        ("H100:8", Gpus(count=8, types=("h100",))),
        ("A100:80GB:4", Gpus(count=4, types=("a100-80gb",))),  # sold with two sizes: two types
        ("H100:80GB", Gpus(types=("h100",))),
        ("L4:16GB:2", Gpus(count=2, types=("l4",), memory_gib=16)),  # not sold so: at least
        ("A10G,A100:2", Gpus(count=2, types=("a10g", "a100"))),
        ("NVIDIA A100-SXM4-80GB:2", Gpus(count=2, types=("a100-80gb",))),
        ("nvidia:V100", Gpus(types=("v100",))),
        ("2..8", Gpus(count=2, most=8)),
        ("H100:0.5", Gpus(count=0.5, types=("h100",))),
        ("24GB", Gpus(memory_gib=24)),
        ("my-card:2", Gpus(count=2, types=("my-card",))),  # a name that the catalogue does not know stays
    ],
)
def test_gpus_in_the_ways_people_type_them(text, expected):
    assert gpus(text, "--gpus") == expected


def test_an_upper_bound_on_memory_becomes_the_types_between():
    asked = gpus("40GB..80GB:2..8", "gpu")

    assert (asked.count, asked.most, asked.memory_gib) == (2, 8, 40)
    assert {"a100", "a100-80gb", "h100", "l40s"} <= set(asked.types) and not {"v100", "h200", "a10"} & set(asked.types)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu", Gpus(count=1)),
        ("gpu:4", Gpus(count=4)),
        ("gpu:a100", Gpus(count=1, types=("a100",))),
        ("gpu:a100:4", Gpus(count=4, types=("a100",))),
        ("gres/gpu:2", Gpus(count=2)),
        ("none", Gpus(count=0)),
    ],
)
def test_gres_as_slurm_has_it(text, expected):
    assert gres(text, "--gres") == expected


@pytest.mark.parametrize("text", ["shard:2", "mps:50", "gpu:a100:2,gpu:v100:2", "gpu:2,license:1"])
def test_a_gres_that_would_be_dropped_is_refused(text):
    with pytest.raises(InputError, match=r"^--gres: "):
        gres(text, "--gres")


@pytest.mark.parametrize("text", ["a100:4,v100:2", "4:4", "a100:b100", "2.5", "8..2", "80GB:40GB"])
def test_gpus_that_say_two_things_are_refused(text):
    with pytest.raises(InputError, match=r"^--gpus: "):
        gpus(text, "--gpus")


@pytest.mark.parametrize(
    ("text", "indices", "limit"),
    [("0-3", [0, 1, 2, 3], None), ("0-99%8", list(range(100)), 8), ("1,3,5-7", [1, 3, 5, 6, 7], None), ("0-15:4", [0, 4, 8, 12], None),
     ("7,7,2", [2, 7], None)],
)  # fmt: skip
def test_arrays(text, indices, limit):
    assert array(text, "-a") == {"indices": indices, "limit": limit}


@pytest.mark.parametrize("text", ["5-1", "0-9:0", "0-9%0", "0-100000", "0-9999999", "a-b", "1--2", "0-50000,60000-120000"])
def test_arrays_without_sense_or_bound_are_refused(text):
    with pytest.raises(InputError, match=r"^-a: "):
        array(text, "-a")


@given(st.sets(st.integers(0, 4_000_000), min_size=1, max_size=40), st.none() | st.integers(1, 1_000))
def test_an_array_written_out_is_read_back(indices, limit):
    text = ",".join(map(str, indices)) + (f"%{limit}" if limit else "")
    assert array(text, "-a") == {"indices": sorted(indices), "limit": limit}


def test_dependencies_by_id_index_and_name():
    assert dependencies("afterok:12:13,afterany:14_3,after:prep", "-d") == (
        Awaited("afterok", "12"), Awaited("afterok", "13"), Awaited("afterany", "14_3"), Awaited("after", "prep"),
    )  # fmt: skip


@pytest.mark.parametrize("text", ["singleton", "afterok", "afterok:", "aftercorr:3", "afterok:1?afterok:2", "after:3+10", "expand:3", "3"])
def test_a_dependency_that_would_mean_something_else_is_refused(text):
    with pytest.raises(InputError, match=r"^-d: "):
        dependencies(text, "-d")


def test_signals():
    assert stop_signal("B:USR1@120", "--signal") == {"number": 10, "before_s": 120.0, "batch_only": True}
    assert stop_signal("SIGTERM", "--signal") == {"number": 15, "before_s": 60.0, "batch_only": False}
    assert (signal_number("12", "-s"), signal_number("sigusr2", "-s")) == (12, 12)
    for wrong in ("WINE", "0", "65", "X:USR1", "USR1@", "USR1@x", "USR1@70000"):
        with pytest.raises(InputError, match=r"^--signal: "):
            stop_signal(wrong, "--signal")


@pytest.fixture
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-25", "2026-11-25T00:00:00"), ("2026-11-25T14:30", "2026-11-25T14:30:00"), ("2026-11-25 14:30:05", "2026-11-25T14:30:05"),
        ("11/25/26", "2026-11-25T00:00:00"), ("1125", "2026-11-25T00:00:00"), ("2:30PM", "2026-11-18T14:30:00"),
        ("12:00am", "2026-11-19T00:00:00"), ("noon", "2026-11-18T12:00:00"), ("tomorrow", "2026-11-19T00:00:00"),
        ("06:00", "2026-11-19T06:00:00"), ("fika", "2026-11-18T15:00:00"), ("now + 2 hours", "2026-11-18T13:06:40"),
        ("01/15", "2027-01-15T00:00:00"), ("1117", "2027-11-17T00:00:00"), ("12/25", "2026-12-25T00:00:00"),
        ("11/25-14:30", "2026-11-25T14:30:00"), ("11.25.26-08:00", "2026-11-25T08:00:00"), ("01/15/26", "2026-01-15T00:00:00"),
    ],
)  # fmt: skip
def test_moments_in_the_future(utc, text, expected):
    """The submission is on 2026-11-18 at 11:06:40 UTC."""
    assert datetime.fromtimestamp(moment_s(text, "-b", NOW_S, ahead=True)).isoformat() == expected


def test_moments_relative_and_past(utc):
    assert moment_s("now+2hours", "-b", NOW_S, ahead=True) == NOW_S + 7_200
    assert moment_s("now-7days", "-S", NOW_S, ahead=False) == NOW_S - 7 * 86_400
    assert moment_s("now+60", "-b", NOW_S, ahead=True) == NOW_S + 60
    assert moment_s("06:00", "-S", NOW_S, ahead=False) < NOW_S  # today's
    assert moment_s("12/25", "-S", NOW_S, ahead=False) == datetime(2025, 12, 25, tzinfo=UTC).timestamp()  # the last one
    assert moment_s("1118-10:00", "-S", NOW_S, ahead=False) == datetime(2026, 11, 18, 10, tzinfo=UTC).timestamp()
    assert moment_s("1795000000", "-S", NOW_S, ahead=False) == NOW_S
    for wrong in ("2026-02-30", "25:00", "13:00PM", "now+2fortnights", "soon", "now+99999999999"):
        with pytest.raises(InputError, match=r"^-b: "):
            moment_s(wrong, "-b", NOW_S, ahead=True)


READERS = [
    duration_s, memory_gib, gpus, gres, array, dependencies, stop_signal, signal_number,
    lambda text, at: moment_s(text, at, NOW_S, ahead=True),
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("read", READERS)
def test_what_is_hostile_is_a_value_or_one_line(read, text):
    try:
        read(text, "here")
    except InputError as error:
        assert str(error).startswith("here: ") and str(error).isprintable() and len(str(error)) < 400


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_one_line(text):
    for read in READERS:
        try:
            read(text, "here")
        except InputError as error:
            assert str(error).startswith("here: ") and "\n" not in str(error)
