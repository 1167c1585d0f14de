"""The command itself: help, verbs, and what becomes of what goes wrong."""

import json
import signal
import subprocess
import sys
import time

import pytest

import trainmaster as package

RUN = [sys.executable, "-m", "trainmaster.cli.main"]


def test_help_lists_every_verb_with_its_summary(trainmaster):
    answer = trainmaster("--help")

    assert answer.status == 0
    assert "simulate  replay a trace under scheduling policies and compare them" in answer.out
    assert "policies  list the scheduling policies" in answer.out


def test_no_arguments_are_a_wish_for_help(trainmaster):
    assert trainmaster() == trainmaster("--help")


def test_the_version_is_the_package_s(trainmaster):
    assert trainmaster("--version").out == f"trainmaster {package.__version__}\n"


@pytest.mark.parametrize("verb", ["simulate", "policies"])
def test_every_verb_has_help_that_fits_a_terminal(trainmaster, verb):
    answer = trainmaster(verb, "--help")

    assert answer.status == 0
    assert all(len(line) <= 120 for line in answer.out.splitlines())


@pytest.mark.parametrize("argv", [[], ["--help"], ["--version"], ["simulate", "--help"], ["policies", "--help"]])
def test_help_imports_nothing_that_takes_time(argv):
    code = f"""
import sys
from trainmaster.cli.main import main
try:
    main({argv!r})
except SystemExit:
    pass
print([name for name in ("numpy", "numba", "polars", "rich", "plotly") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.stderr == "[]\n"


def test_importing_the_package_imports_nothing_that_takes_time():
    code = "import sys, trainmaster; print([name for name in ('numpy', 'numba', 'polars') if name in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout == "[]\n"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["simulat"], 'no verb "simulat"; did you mean "simulate"?'),
        (["frobnicate"], "there are acct, cancel"),
        (["--frobnicate"], "--frobnicate"),
        (["simulate", "--polcy", "fifo"], "no option --polcy; did you mean --policy?"),
        (["simulate", "two.csv"], "'two.csv' belongs to no option"),
        (["simulate", "--json"], "--json: expected one argument"),
        (["policies", "--json", "--bibtex"], "not allowed with"),
    ],
)
def test_a_wrong_call_is_one_line(trainmaster, argv, told):
    answer = trainmaster(*argv)

    assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert answer.err.startswith("trainmaster: ") and told in answer.err


def test_a_reader_that_has_enough_is_no_error(trainmaster, tmp_path):
    with subprocess.Popen([*RUN, "policies"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupt_is_one_line_and_leaves_no_part_of_a_file(tmp_path, workers):
    argv = [*RUN, "simulate", "--jobs", "400000", "--seeds", "40", "--policy", "fifo,srtf", "--quiet", "--json", "out.json"]
    with subprocess.Popen([*argv, "--workers", workers], cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not list(tmp_path.iterdir()):  # the claimed output
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"trainmaster: interrupted\n"
        assert process.wait(60) == 130
    assert list(tmp_path.iterdir()) == []


def test_policies_are_a_table_and_json_with_the_same_names(trainmaster):
    table, listed = trainmaster("policies").out, json.loads(trainmaster("policies", "--json").out)

    assert [policy["name"] for policy in listed if policy["name"] not in table] == []
    fifo, srtf = (next(policy for policy in listed if policy["name"] == name) for name in ("fifo", "srtf"))
    assert (fifo["kind"], fifo["preemptive"], fifo["needs"], fifo["params"]) == ("list", False, [], {"blocking": True})
    assert (srtf["preemptive"], srtf["needs"]) == (True, ["oracle"])
    assert all(policy["paper"] for policy in listed)


def test_bibtex_has_an_entry_once(trainmaster):
    entries = [line for line in trainmaster("policies", "--bibtex").out.splitlines() if line.startswith("@")]

    assert len(entries) == len(set(entries))
