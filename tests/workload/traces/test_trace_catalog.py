"""The formats there are, and readers from outside the package."""

import importlib
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from trainmaster.errors import ParamError, TraceError
from trainmaster.workload.traces import catalog, formats, load_trace

SAMPLES = Path(__file__).parent / "samples"

MINE = '''
"""Mine: seconds, GPUs and start in a file that begins with a word."""
from trainmaster.workload.traces.source import Head, Source
from trainmaster.workload.traces.trace import Trace

def sniff(head: Head) -> bool:
    return head.csv_columns >= {"begin", "cards", "seconds"}

def read(source: Source) -> Trace:
    rows = source.csv(("begin", "cards", "seconds"))
    return rows.trace("mine", submit_s=rows.floats("begin"), gpus=rows.ints("cards", at_least=1), work=rows.floats("seconds", at_least=0))
'''


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "log.csv").write_text("begin,cards,seconds\n0,2,60\n")
    return tmp_path


def test_the_formats_of_the_design_are_all_there():
    assert set(formats()) == {
        "philly", "philly-json", "tiresias", "gavel", "pollux", "helios", "lucid", "pai2020", "openb", "elasticflow", "muri", "synergy",
        "swf", "sacct", "trainmaster",
    }  # fmt: skip


def test_every_reader_says_its_name_and_what_becomes_of_its_columns():
    for name in formats():
        reader = importlib.import_module(f"trainmaster.workload.traces.{name.replace('-', '_')}")
        assert name == reader.FORMAT
        assert all(word in reader.__doc__ for word in ("becomes", "skipped", "absent"))


def test_listing_formats_imports_no_polars():
    code = "import sys; from trainmaster.workload.traces import formats; formats(); sys.exit('polars' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False).returncode == 0


def test_an_unknown_format_gets_the_nearest():
    with pytest.raises(ParamError, match='--format: no format "tiresas"; did you mean "tiresias"'):
        load_trace(SAMPLES / "tiresias.csv", "tiresas")


def test_a_reader_given_by_path(mine):
    trace = load_trace(mine / "log.csv", str(mine / "mine.py"))

    assert (trace.format, trace.jobs.gpus[0], trace.jobs.work[0]) == ("mine", 2, 60)


def test_a_reader_of_another_package_is_listed_and_takes_part_in_auto(mine, monkeypatch):
    monkeypatch.syspath_prepend(mine)
    monkeypatch.setattr(catalog, "_entry_points", lambda: {"mine": EntryPoint("mine", "mine", catalog.ENTRY_POINTS)})

    assert "mine" in formats()
    assert load_trace(mine / "log.csv").format == "mine"


def test_a_broken_reader_of_another_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_reader.py").write_text("def sniff(head): return 1 / 0\ndef read(source): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(catalog, "_entry_points", lambda: {"broken": EntryPoint("broken", "broken_reader", catalog.ENTRY_POINTS)})

    with pytest.raises(ParamError, match=r"reader broken: sniff: .*broken_reader\.py:1: ZeroDivisionError"):
        load_trace(SAMPLES / "tiresias.csv")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def sniff(head): return True", "has no function read"),
        ("x = 1", "has no function sniff and no read"),
        ("def sniff(:", "SyntaxError"),
        ("import there_is_no_such_package", "ModuleNotFoundError"),
    ],
)
def test_a_file_that_is_no_reader(code, problem, tmp_path):
    (tmp_path / "reader.py").write_text(code)

    with pytest.raises(ParamError, match=problem):
        load_trace(SAMPLES / "tiresias.csv", str(tmp_path / "reader.py"))


def test_a_reader_that_is_not_there(tmp_path):
    with pytest.raises(ParamError, match="no such file"):
        load_trace(SAMPLES / "tiresias.csv", str(tmp_path / "none.py"))


def test_a_fault_in_an_outside_reader_is_one_line_with_its_place(tmp_path):
    (tmp_path / "reader.py").write_text("def sniff(head): return True\ndef read(source):\n    return {}['x']\n")

    with pytest.raises(TraceError, match=r"tiresias\.csv: reader .*reader\.py:3: KeyError: 'x'"):
        load_trace(SAMPLES / "tiresias.csv", str(tmp_path / "reader.py"))


def test_an_outside_reader_that_gives_something_else(tmp_path):
    (tmp_path / "reader.py").write_text("def sniff(head): return True\ndef read(source): return []\n")

    with pytest.raises(TraceError, match="gave a list, not a Trace"):
        load_trace(SAMPLES / "tiresias.csv", str(tmp_path / "reader.py"))
