"""Tasks that a script's `srun` starts on another node: two keepers and their supervisors, and between them what an actor would carry."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainmaster.live.backends.base import Attempt, NodeShare
from trainmaster.live.node import folder as files
from trainmaster.live.node import keeper as keepers
from trainmaster.live.node import steps
from trainmaster.live.node.keeper import Keeper
from trainmaster.live.node.plan import plan as plan_of
from trainmaster.live.spec import JobSpec

from .harness import alive

PATIENCE_S = 30.0


class Script:
    """A batch script on the first of two nodes."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.work.mkdir()
        self.asked: list[tuple[Any, ...]] = []
        self.lost = False  # the second node answers nothing
        self.unheard: set[str] = set()  # verbs whose next answer is lost on its way
        self.keepers = [self.keeper(folder, node) for node in (0, 1)]

    def keeper(self, folder: Path, node: int) -> Keeper:
        return Keeper(str(folder), f"n{node + 1}", 7, 1, node, 2, self.tell, self.ask)

    def tell(self, node: int, verb: str, what: Any) -> None:
        with contextlib.suppress(ConnectionError):
            self.ask(node, verb, what)

    def ask(self, node: int, verb: str, *arguments: Any) -> Any:
        self.asked.append((verb, *arguments))
        if self.lost:
            raise ConnectionError("it does not answer any more")
        keeper = self.keepers[node]
        answer = getattr(keeper if hasattr(keeper, verb) else keeper.tasks, verb)(*arguments)
        if verb in self.unheard:
            self.unheard.remove(verb)
            return self.ask(node, verb, *arguments)  # an actor asks again
        return answer

    def begin(self, script: str) -> None:
        env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        spec = JobSpec(script=f"#!/bin/bash\n{script}", workdir=str(self.work), env=env, gpus=2, ranks="batch")
        shares = tuple(NodeShare(node=name, gpus=1) for name in ("n1", "n2"))
        attempt = Attempt(job=7, attempt=1, name="job", user="ada", spec=spec, shares=shares)
        facts = [keeper.facts() for keeper in self.keepers]
        for node, keeper in enumerate(self.keepers):
            plan = plan_of(attempt, facts[node]["state"], [[3], [5]], port=0, cgroup=None, limits=[], umask=0o077, log_limit=0)
            plan["ranks"] = plan["ranks"] if node == 0 else []
            for there, fact in zip(plan["nodes"], facts, strict=True):
                there["TRAINMASTER_CONTROL"] = f"{files.attempt_folder(fact['state'], 7, 1)}/{files.CONTROL}"
            if node:
                plan["nodes"] = []
            keeper.begin({**plan, "hold": True, "keeps": node > 0}, spec.script, None)
        for keeper in self.keepers:
            self.wait(lambda keeper=keeper: keeper.ready)
        for keeper in self.keepers:
            keeper.go()

    def wait(self, look: Callable[[], Any]) -> Any:
        until_s = time.monotonic() + PATIENCE_S
        while not (found := look()):
            assert time.monotonic() < until_s, (self.log(), [keeper.end for keeper in self.keepers])
            time.sleep(0.02)
        return found

    def log(self) -> str:
        path = Path(self.keepers[0].folder) / "0.log"
        return path.read_text() if path.exists() else ""

    def file(self, name: str) -> str:
        return str(self.wait(lambda: (self.work / name).exists() and (self.work / name).read_text().strip()))

    def end(self) -> tuple[int, list[str]]:
        """Of the whole: the script's exit code, and what it has said."""
        ends = [self.wait(lambda keeper=keeper: keeper.end) for keeper in self.keepers]
        return ends[0]["exit_code"], self.log().splitlines()

    def run(self, script: str) -> tuple[int, list[str]]:
        self.begin(script)
        return self.end()


def without_bash(lines: list[str]) -> list[str]:
    """It says how its `sleep` was ended."""
    return [line for line in lines if line not in ("Terminated", "User defined signal 1")]


@contextlib.contextmanager
def connected(script: Script) -> Iterator[socket.socket]:
    """As a process of the job may be."""
    folder = os.open(script.keepers[0].folder, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"/proc/self/fd/{folder}/{steps.SOCKET}")
        os.close(folder)
        yield connection


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    made = Script(tmp_path)
    yield made
    for keeper in made.keepers:
        keeper.stop({"reason": "cancel", "grace_s": 0.0})
    for keeper in made.keepers:
        made.wait(lambda keeper=keeper: keeper.plan is None or keeper.end is not None)


def test_tasks_run_on_both_nodes_as_the_script_would_have_them(script: Script) -> None:
    code, lines = script.run(
        "export MINE='two words' PATH=/first:$PATH; unset SLURM_SUBMIT_DIR; mkdir below; cd below\n"
        "srun -l sh -c 'echo $SLURM_PROCID/$SLURM_NTASKS $SLURM_LOCALID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES; echo err >&2'\n"
        "srun -N1 -n1 -w n2 sh -c 'pwd; echo $MINE ${SLURM_SUBMIT_DIR-unset}; echo $TRAINMASTER_CONTROL; echo $PATH; command -v srun'\n"
        "srun -o out-%t sh -c 'echo $SLURM_NODEID; echo err >&2'; sort out-0 out-1\n"
    )
    assert code == 0
    assert sorted(lines[:4]) == ["0: 0/2 0 n1 3", "0: err", "1: 1/2 0 n2 5", "1: err"]
    there = script.keepers[1]
    assert lines[4:7] == [f"{script.work}/below", "two words unset", there.control]
    assert lines[7].startswith(f"/first:{there.state}/bin:") and lines[8] == f"{there.state}/bin/srun"
    assert lines[9:] == ["0", "1", "err", "err"]
    assert not list(Path(there.folder).glob("task.*"))


def test_srun_ends_with_the_largest_code_of_its_tasks_wherever_that_one_ran(script: Script) -> None:
    _, lines = script.run(
        "srun sh -c 'exit $((SLURM_PROCID * 3 + 1))'; echo $?\nsrun -w n2 -N1 sh -c 'kill -9 $$'; echo $?\n"
        "srun -w n2 -N1 no-such-program; echo $?\nsrun -w n2 -N1 -D /no/such/folder true; echo $?\nsrun true; echo $?\n"
    )
    assert [line for line in lines if line.isdecimal()] == ["4", "137", "127", "2", "0"]
    assert any("no-such-program" in line for line in lines) and any("n2" in line and "/no/such/folder" in line for line in lines)


def test_sruns_run_beside_each_other_and_one_after_the_other(script: Script) -> None:
    (script.work / "meet").write_text("touch $1; until test -e $2; do sleep 0.02; done; echo met\n")
    code, lines = script.run(
        "srun -N1 -n1 -w n2 sh meet a b & srun -N1 -n1 -w n2 sh meet b a & wait\n"
        "for i in 1 2 3 4 5; do srun sh -c 'echo $SLURM_PROCID'; done\nsrun --ntasks-per-node 20 echo many\n"
    )
    assert (code, lines[:2], sorted(lines[2:12]), lines[12:]) == (0, ["met"] * 2, ["0"] * 5 + ["1"] * 5, ["many"] * 40)


def test_every_byte_of_a_tasks_output_arrives_once_though_answers_are_lost_and_its_reader_is_slow(script: Script) -> None:
    (script.work / "speak.py").write_text("for i in range(400_000): print(f'{i:07}')\n")
    script.unheard = {"start_task", "fetch"}
    code, lines = script.run(
        "srun -N1 -n1 -w n2 python speak.py | (sleep 1; sha256sum)\npython speak.py | sha256sum\n"
        "srun -N1 -n1 -w n2 yes | head -n1; echo ${PIPESTATUS[0]}\n"
    )
    assert not script.unheard
    assert (code, lines[0], lines[2:]) == (0, lines[1], ["y", "1"])


def test_output_that_nobody_takes_is_held_back_where_it_is_made_and_other_tasks_go_on(script: Script) -> None:
    (script.work / "speak.py").write_text("import os\nwhile True: print(os.write(1, b'x' * 65536), file=open('written', 'a'))\n")
    script.begin(
        "srun -N1 -n1 -w n2 python speak.py | (until test -e go; do sleep 0.05; done; head -c 1) &\n"
        "until test -e written; do sleep 0.02; done; sleep 1; cp written before; sleep 0.5\n"
        "for i in 1 2 3; do srun -N1 -n1 -w n2 echo on; done; touch go; wait\n"
    )
    code, lines = script.end()
    written = [int(line) for line in script.file("before").splitlines()]
    assert (code, lines) == (0, ["on", "on", "on", "x"])
    assert sum(written) < 4 * steps.CHUNK  # pipes, a socket, one answer


def test_a_stop_reaches_tasks_there_once_and_the_script_may_wait_for_them(script: Script) -> None:
    (script.work / "task").write_text("trap 'echo asked; rm up' TERM; touch up; while test -e up; do sleep 0.02; done; exit 3\n")
    script.begin("trap : TERM; srun -N1 -n1 -w n2 bash task; echo $?; exit 9\n")
    script.wait(lambda: (script.work / "up").exists())
    for keeper in script.keepers:
        keeper.stop({"reason": "cancel", "grace_s": 20.0})
    code, lines = script.end()
    assert (code, without_bash(lines)) == (9, ["asked", "3"])


@pytest.mark.parametrize("how", ["killed", "over"])
def test_nothing_is_left_there_when_the_script_is_killed_or_over(script: Script, how: str) -> None:
    (script.work / "task").write_text("trap '' TERM; (setsid sleep 300 & echo $! > daemon &); echo $$ > pid; while :; do sleep 0.1; done\n")
    end = "wait" if how == "killed" else "until test -s daemon -a -s pid; do sleep 0.02; done"
    script.begin(f"srun -N1 -n1 -w n2 bash task &\n{end}\n")
    pids = [int(script.file(name)) for name in ("pid", "daemon")]
    if how == "killed":
        for keeper in script.keepers:
            keeper.stop({"reason": "cancel", "grace_s": 0.2})
    script.end()
    assert not any(map(alive, pids))


def test_what_a_task_leaves_running_does_not_keep_its_srun(script: Script) -> None:
    code, lines = script.run("srun -N1 -n1 -w n2 sh -c 'sleep 300 & echo $! > left; echo done'\nkill -0 $(cat left) && echo still there\n")
    assert (code, lines) == (0, ["done", "still there"])
    assert not alive(int(script.file("left")))


def test_the_tasks_of_a_killed_srun_are_killed_and_the_script_goes_on(script: Script) -> None:
    code, lines = script.run(
        "srun -N1 -n1 -w n2 sh -c 'sleep 300 & echo $! > child; wait' & until test -s child; do sleep 0.02; done; kill -9 $!\n"
        "while kill -0 $(cat child); do sleep 0.05; done 2> /dev/null; srun -l -n2 echo on\n"
    )
    assert (code, sorted(line for line in lines if line.endswith(": on"))) == (0, ["0: on", "1: on"])


def test_a_signal_to_all_reaches_tasks_there_and_no_srun(script: Script) -> None:
    (script.work / "task").write_text("trap 'echo heard; exit 0' USR1; touch up-$SLURM_PROCID; while :; do sleep 0.02; done\n")
    script.begin("srun bash task; echo after $?\n")
    for task in "01":
        script.wait(lambda task=task: (script.work / f"up-{task}").exists())
    for keeper in script.keepers:
        keeper.signal(signal.SIGUSR1, False)
    code, lines = script.end()
    assert (code, without_bash(lines)) == (0, ["heard", "heard", "after 0"])


def test_a_task_whose_output_cannot_be_written_fails_and_srun_says_why(script: Script) -> None:
    _, lines = script.run("srun -N1 -n1 -w n2 -o /dev/full sh -c 'echo lost; exec sleep 300'; echo $?\n")
    assert lines == ["srun: error: n2: No space left on device", "1"]


NO_FORK = """import os, sys
fork, left = os.fork, [BlockingIOError(11, "no more processes")] * 5 * ("node-n2" in sys.argv[2])
def refuse():
    if left:
        raise left.pop()
    return fork()
os.fork = refuse
"""


def test_a_node_with_no_process_left_fails_its_sruns_keeps_nothing_open_and_goes_on_later(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keepers, "MAIN", NO_FORK + keepers.MAIN)
    sruns = "for i in 1 2 3 4 5 6; do srun -N1 -n1 -w n2 echo on; echo $?; done"
    script.begin(f"until test -e go; do sleep 0.02; done; {sruns}; touch done; sleep 9\n")
    there = script.wait(lambda: files.read_json(f"{script.keepers[1].folder}/{files.SUPERVISOR}"))["pid"]
    script.wait(lambda: script.keepers[1].started_s)
    before = len(os.listdir(f"/proc/{there}/fd"))
    (script.work / "go").touch()
    script.wait(lambda: (script.work / "done").exists())
    assert len(os.listdir(f"/proc/{there}/fd")) <= before
    assert script.log().splitlines() == ["srun: error: n2: [Errno 11] no more processes", "2"] * 5 + ["on", "0"]


@pytest.mark.parametrize("name", ["srun", "tasks on n2"])
def test_a_thread_that_cannot_be_started_fails_its_srun_and_no_other(script: Script, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    start, refused = threading.Thread.start, []

    def refuse(thread: threading.Thread) -> None:
        if thread.name == name and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    script.begin("until test -e go; do sleep 0.02; done; for i in 1 2; do srun -N1 -n1 -w n2 echo on; echo $?; done\n")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    (script.work / "go").touch()
    code, (said, failed, *others) = script.end()
    assert (code, others) == (0, ["on", "0"])
    assert said.startswith("srun: error: ") and failed != "0"


def test_a_signal_to_srun_reaches_no_task_but_its_group_has_those_of_the_first_node(script: Script) -> None:
    (script.work / "task").write_text("trap 'echo heard; exit 0' USR1; touch up-$SLURM_PROCID; until test -e go; do sleep 0.02; done\n")
    up = "until test -e up-0 -a -e up-1; do sleep 0.02; done"
    code, lines = script.run(
        f"srun bash task & {up}; kill -USR1 $!; sleep 0.2; touch go; wait $!; echo $?; rm up-* go\n"
        f"timeout -s USR1 60 srun bash task & {up}; kill -USR1 -$!; sleep 0.2; touch go; wait\n"
    )
    assert (code, without_bash(lines)) == (0, ["0", "heard"])


def test_a_node_that_answers_nothing_any_more_fails_the_srun(script: Script) -> None:
    script.begin("srun -N1 -n1 -w n2 sh -c 'touch up; exec sleep 300'; echo $?; srun -N1 -n1 -w n2 true; echo $?\n")
    script.wait(lambda: (script.work / "up").exists())
    script.lost = True
    script.wait(lambda: script.keepers[0].end)
    script.lost = False
    script.keepers[1].stop({"reason": "cancel", "grace_s": 0.0})
    assert script.end() == (0, ["srun: error: n2: it does not answer any more", "1"] * 2)


@pytest.mark.parametrize("victim", ["supervisor", "tie"])
def test_a_supervisor_that_is_lost_there_fails_the_srun_and_leaves_nothing(script: Script, victim: str) -> None:
    script.begin("trap : TERM; srun -N1 -n1 -w n2 sh -c 'echo $$ > task.pid; exec sleep 300'; echo $?\n")
    task, there = int(script.file("task.pid")), script.keepers[1]
    if victim == "tie":
        there._child.stdin.close()  # type: ignore[union-attr]
    else:
        os.kill((files.read_json(f"{there.folder}/{files.SUPERVISOR}") or {})["pid"], signal.SIGKILL)
    script.end()
    *said, code = script.log().splitlines()
    assert code != "0" and not alive(task)
    assert victim == "tie" or "srun: error: n2: a task has gone with what else ran there" in said


def test_what_the_job_itself_says_to_the_socket_harms_no_other_srun(script: Script) -> None:
    script.begin("until test -e go; do sleep 0.02; done; srun -l -n2 echo on\n")
    strange = b'{"node": 1, "argv": ["true"], "env": {}, "cwd": 3}', b'{"node": 0, "argv": ["true"], "env": {}, "cwd": "/"}'
    framed = [steps.HEADER.pack(0, len(task)) + task for task in (b"[]", b"[" * 9999, *strange)]
    for text in (b"", b"GET / HTTP/1.0\r\n\r\n", steps.HEADER.pack(0, 2**32 - 1), *framed):
        with connected(script) as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):  # not all of it was read
                assert connection.recv(1) == b""
    (script.work / "go").touch()
    code, lines = script.end()
    assert (code, sorted(lines)) == (0, ["0: on", "1: on"])


def test_a_command_whose_name_is_no_text_fails_as_any_that_is_not_there(script: Script) -> None:
    code, lines = script.run("srun -w n2 -N1 $'no-such-\\xff'; echo $?\nsrun -w n2 -N1 $'./\\xff'; echo $?; srun -w n2 -N1 echo on\n")
    assert (code, [line for line in lines if line.isdecimal()], lines[-1]) == (0, ["127", "127"], "on")


def test_tasks_of_a_node_that_was_mute_and_answers_again_are_killed_before_others_start_there(script: Script) -> None:
    script.begin(
        "srun -N1 -n1 -w n2 sh -c 'echo $$ > pid; exec sleep 300'; touch failed; until test -e back; do sleep 0.02; done\n"
        "srun -N1 -n1 -w n2 sh -c 'while kill -0 $(cat pid) 2> /dev/null; do sleep 0.02; done; echo on'\n"
    )
    script.file("pid")
    script.lost = True
    script.wait(lambda: (script.work / "failed").exists())
    script.lost = False
    (script.work / "back").touch()
    assert script.end() == (0, ["srun: error: n2: it does not answer any more", "on"])


def test_of_the_tasks_of_a_killed_srun_their_orphans_are_killed_too(script: Script) -> None:
    code, lines = script.run(
        "srun -N1 -n1 -w n2 sh -c '(sleep 300 & echo $! > child); sleep 300' & until test -s child; do sleep 0.02; done; kill -9 $!\n"
        "while kill -0 $(cat child); do sleep 0.05; done 2> /dev/null; echo on\n"
    )
    assert (code, lines[-1]) == (0, "on")


def test_who_has_said_too_much_and_gone_keeps_no_task(script: Script) -> None:
    script.begin("until test -e go; do sleep 0.02; done\n")
    task = json.dumps({"node": 1, "argv": ["sh", "-c", f"echo $$ > {script.work}/pid; exec sleep 300"], "env": {}, "cwd": "/"}).encode()
    with connected(script) as connection:
        connection.sendall(steps.HEADER.pack(0, len(task)) + task + b"more" * 100)
        pid = int(script.file("pid"))
    script.wait(lambda: not alive(pid))
    (script.work / "go").touch()
    assert script.end()[0] == 0


def test_connections_that_say_nothing_keep_no_srun_waiting(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "HELLO_S", 10 * PATIENCE_S)
    script.begin("until test -e go; do sleep 0.02; done; srun -l -n2 echo on\n")
    with contextlib.ExitStack() as idle:
        for _ in range(5):
            idle.enter_context(connected(script))
        (script.work / "go").touch()
        assert sorted(script.end()[1]) == ["0: on", "1: on"]


def test_a_task_that_cannot_start_is_told_at_once(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "FETCH_S", 10 * PATIENCE_S)
    monkeypatch.setattr(steps, "MOST", 0)
    start = script.keepers[1].tasks.start_task
    monkeypatch.setattr(script.keepers[1].tasks, "start_task", lambda *asked: (time.sleep(0.3), start(*asked))[1])  # it is on its way
    assert script.run("srun -N1 -n1 -w n2 true; echo $?\n") == (0, ["srun: error: n2: 0 tasks run there already", "1"])


def test_a_node_that_does_not_answer_keeps_no_task_of_another_waiting(tmp_path: Path) -> None:
    muted, unmute = threading.Event(), threading.Event()

    def ask(node: int, verb: str, *arguments: Any) -> Any:
        if node == 1:
            muted.set()
            unmute.wait(10 * PATIENCE_S)
            raise ConnectionError("it does not answer any more")
        return dict.fromkeys(arguments[1], (b"on", b"", 0)) if verb == "fetch" else None

    path = str(tmp_path / "steps")
    senders = steps.Senders(path, "/bin", ["n1", "n2", "n3"], ask)
    task = {"argv": ["true"], "env": {}, "cwd": "/"}
    mute = steps.Elsewhere(path, 1, "n2", task, None, None, piped=True)
    assert muted.wait(PATIENCE_S)
    other = steps.Elsewhere(path, 2, "n3", task, None, None, piped=True)
    other._thread.join(PATIENCE_S)
    ended = not other._thread.is_alive()
    unmute.set()
    assert mute.wait() == 1 and ended and other.wait() == 0
    senders.close()


FOREVER = b'{"stop": {"reason": "x", "grace_s": Infinity}}'


@pytest.mark.parametrize("said", [b"[]", b'"word"', b"7", b'{"start": "5"}', b'{"start": ["5"]}', b'{"kill": []}', FOREVER])
def test_what_the_job_says_to_the_supervisor_there_does_not_end_it(script: Script, said: bytes) -> None:
    script.begin("until test -e go; do sleep 0.02; done; srun -l -n2 echo on\n")
    script.wait(lambda: script.keepers[1].started_s)
    there = Path(script.keepers[1].folder)
    (there / "task.5.json").write_text('{"argv": 7, "env": [], "cwd": {}}')
    streams = [files.make_fifo(f"{there}/task.5.{name}") for name in ("out", "err", "end")]
    with open(there / files.COMMANDS, "wb") as commands:
        commands.write(said + b"\n")
    (script.work / "go").touch()
    code, lines = script.end()
    for stream in streams:
        os.close(stream)
    assert (code, sorted(lines)) == (0, ["0: on", "1: on"])


def test_a_stop_may_leave_more_time_than_a_wait_of_the_kernel_can_last(script: Script) -> None:
    script.begin("trap 'echo asked' TERM; touch up; until test -e go; do sleep 0.02; done; exit 4\n")
    script.wait(lambda: (script.work / "up").exists())
    for node in script.keepers:
        node.stop({"reason": "cancel", "grace_s": 1e9})
    script.wait(lambda: "asked" in script.log())
    (script.work / "go").touch()
    code, lines = script.end()
    assert (code, without_bash(lines)) == (4, ["asked"])


def test_a_folder_that_hangs_holds_its_own_task_alone(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs = "import os, time; cd = os.chdir; os.chdir = lambda path: cd(path) if path != '/hung' else time.sleep(300); "
    monkeypatch.setattr(keepers, "MAIN", hangs + keepers.MAIN)
    script.begin(
        "srun -N1 -n1 -w n2 -D /hung true & until test -e tried; do sleep 0.02; done\n"
        "srun -N1 -n1 -w n2 sh -c 'echo $$ > pid; exec sleep 300'\n"
    )
    script.wait(lambda: ("start_task" in [asked[0] for asked in script.asked]))
    (script.work / "tried").touch()
    pid = int(script.file("pid"))
    for node in script.keepers:
        node.stop({"reason": "cancel", "grace_s": 0.2})
    script.end()
    assert not alive(pid)
