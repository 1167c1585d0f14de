"""What Slurm's commands print becomes data, and nothing that they print does harm; how several nodes' ends make one."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainmaster.cluster.scontrol import nodes_listed
from trainmaster.errors import BackendError, ClusterError
from trainmaster.live.backends import slurm_parsing as parsing
from trainmaster.live.backends.slurm_attempt import whole
from trainmaster.live.backends.slurm_commands import Slurm

NODES = """\
NodeName=a1 CPUEfctv=8 CPUTot=8 Gres=gpu:A100:4(S:0-1) GresUsed=gpu:A100:3(IDX:0-1,3) NodeAddr=10.0.0.1 State=MIXED Partitions=main,big
NodeName=a2 CPUTot=8 Gres=gpu:4 GresUsed=gpu:(null):2(IDX:0-1) NodeAddr=a2 RealMemory=1 State=DOWN*+DRAIN Partitions=main Reason=fan
NodeName=a3 CPUTot=8 Gres=gpu:a100:4,gpu:v100:2 GresUsed=gpu:a100:1(IDX:0),gpu:v100:0(IDX:N/A) State=UNKNOWN Partitions=main
NodeName=a4 CPUTot=0 Gres=(null) State=FUTURE
"""


def test_a_queue_is_read_line_by_line_and_a_name_may_hold_anything() -> None:
    text = "7|RUNNING|n[1-2]|None|tm-00c0ffee-12.3.0-a|b\n8|PENDING||Resources|x\n"
    text += "9_[1-4]|PENDING||None|array\n11+0|RUNNING|n1|None|het\nrubbish\n"
    rows = parsing.rows(text)
    assert [(row.id, row.state, row.nodes, row.reason, row.name, row.waits) for row in rows] == [
        (7, "RUNNING", ("n1", "n2"), "None", "tm-00c0ffee-12.3.0-a|b", False),
        (8, "PENDING", (), "Resources", "x", True),
    ]
    assert parsing.known(rows[0].name, "00c0ffee") == ((12, 3), 0)


@given(st.integers(1, 10**12), st.integers(1, 10**6), st.integers(0, 99), st.text(max_size=100))
def test_a_job_name_tells_whose_it_is_and_holds_nothing_strange(job: int, attempt: int, part: int, name: str) -> None:
    called = parsing.job_name("0123abcd", (job, attempt), part, name)
    assert parsing.known(called, "0123abcd") == ((job, attempt), part)
    assert parsing.known(called, "ffffffff") is None
    assert called.isascii() and called.isprintable() and not set(called) & set(" |,;%'\"$\\")


@given(st.text(max_size=200))
def test_whatever_a_command_prints_is_data_or_an_error_of_one_line(text: str) -> None:
    parsing.rows(text)
    parsing.partitions(text)
    parsing.ending(text, "x")
    assert parsing.known(text, "0123abcd") is None
    try:
        parsing.submitted(text)
    except BackendError as error:
        assert "\n" not in str(error)
    with contextlib.suppress(ClusterError):
        nodes_listed(text, "nodes")


def test_sbatch_may_name_the_cluster_beside_the_id() -> None:
    assert (parsing.submitted("17\n"), parsing.submitted("18;second\n")) == (17, 18)


def test_partitions_and_how_a_job_ended_are_read_from_their_words() -> None:
    text = "PartitionName=main Default=YES MaxTime=1-12:00:30 State=UP\nPartitionName=old Default=NO MaxTime=UNLIMITED State=DOWN\n"
    assert [(one.name, one.default, one.up, one.most_min) for one in parsing.partitions(text)] == [
        ("main", True, True, 2160), ("old", False, False, None),
    ]  # fmt: skip
    assert parsing.ending("JobId=3 JobName=x JobState=NODE_FAIL Reason=NodeDown Dependency=(null)", "x") == "NODE_FAIL (NodeDown)"
    assert parsing.ending("JobId=3 JobName=x JobState=COMPLETED Reason=None", "x") == "COMPLETED"
    assert parsing.ending("JobId=3 JobName=another JobState=COMPLETED", "x") == ""  # the id was given again


def test_nodes_are_listed_with_what_others_may_want_to_know() -> None:
    nodes = nodes_listed(NODES, "nodes")
    assert [(node.name, node.address, node.unusable, dict(node.used_gpus), node.partitions) for node in nodes] == [
        ("a1", "10.0.0.1", None, {"a100": 3}, ("main", "big")),
        ("a2", "a2", "down", {"": 2}, ("main",)),
        ("a3", "a3", "down", {"a100": 1}, ("main",)),
    ]
    assert [(row.name, row.gpus, row.type) for node in nodes for row in node.rows] == [
        ("a1", 4, "a100"), ("a2", 4, ""), ("a3/a100", 4, "a100"), ("a3/v100", 2, "v100"),
    ]  # fmt: skip
    assert nodes[0].spelled == {"a100": "A100"}


def end(code: int = 0, **more: Any) -> dict[str, Any]:
    return {"exit_code": code, "started_s": 10.0, "ended_s": 20.0, "asked": None, "acknowledged": False, "follows": False,
            "failed_s": None, "message": "", **more}  # fmt: skip


def test_a_gang_ends_as_the_node_that_failed_first_whatever_those_do_that_end_because_of_it() -> None:
    ends = {0: end(143, follows=True, failed_s=16.0), 1: end(9, failed_s=15.0, ended_s=21.0), 2: end(7, failed_s=15.5)}
    assert (whole(ends, True)["exit_code"], whole(ends, True)["ended_s"]) == (9, 21.0)


def test_a_node_that_could_not_start_refuses_the_whole_and_a_lost_one_loses_it() -> None:
    stopped = end(143, follows=True, started_s=None)
    assert whole({0: stopped, 1: {**end(), "refused": "no such folder"}}, False)["refused"] == "no such folder"
    assert whole({0: {**end(), "lost": "killed"}, 1: {**end(), "refused": "no"}}, False)["lost"] == "killed"


@pytest.mark.parametrize(("in_a_gang", "acks", "whole_one"), [(True, (1, 0), False), (True, (1, 1), True), (False, (1, 0), True)])
def test_a_gang_has_acknowledged_when_all_have_and_other_jobs_when_their_first_node_has(
    in_a_gang: bool, acks: tuple[int, int], whole_one: bool
) -> None:
    ends = {node: end(acknowledged=bool(ack), asked="preempt") for node, ack in enumerate(acks)}
    assert (whole(ends, in_a_gang)["acknowledged"], whole(ends, in_a_gang)["asked"]) == (whole_one, "preempt")


def test_a_command_that_is_not_there_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"squeue: .*PATH"):
        Slurm("launch").jobs()


def test_a_command_that_does_not_answer_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("trainmaster.live.backends.slurm_commands.LOOK_S", 0.2)
    with pytest.raises(BackendError, match="no answer within"):
        Slurm("launch").jobs()


def test_an_operators_defaults_for_sbatch_do_not_reach_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "scancel").write_text("#!/bin/sh\nenv > \"$(dirname \"$0\")/seen\"\n")
    (tmp_path / "scancel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    monkeypatch.setenv("SLURM_CONF", "/where/it/is")
    Slurm("launch").cancel([1])
    seen = (tmp_path / "seen").read_text()
    assert "SBATCH_PARTITION" not in seen and "SLURM_CONF=/where/it/is" in seen


def command(folder: Any, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_what_a_command_that_hangs_has_started_ends_with_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Sites wrap Slurm's commands into scripts: a poll a second must not leave a process a second."""
    command(tmp_path, "squeue", f"sleep 60 & echo $! > {tmp_path}/child; wait", monkeypatch)
    monkeypatch.setattr("trainmaster.live.backends.slurm_commands.LOOK_S", 0.5)
    with pytest.raises(BackendError, match="no answer within"):
        Slurm("launch").jobs()
    child = int((tmp_path / "child").read_text())
    until_s = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}") and "\nState:\tZ" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < until_s
        time.sleep(0.02)


@pytest.mark.parametrize("script", ["exec yes", "exec yes >&2"])
def test_a_command_that_prints_without_end_fills_no_memory(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    command(tmp_path, "squeue", script, monkeypatch)
    monkeypatch.setattr("trainmaster.live.backends.slurm_commands.LOOK_S", 1.0)
    monkeypatch.setattr("trainmaster.live.backends.slurm_commands.OUTPUT_BYTES", 1 << 20)
    with pytest.raises(BackendError, match="printed more than 1 MiB" if script == "exec yes" else "no answer within"):
        Slurm("launch").jobs()
