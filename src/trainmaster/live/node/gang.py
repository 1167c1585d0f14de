"""The supervisor of one node of an attempt, where a system like Slurm starts one on each node and all share a file system.

    STATE/jobs/JOB/ATTEMPT/
        plan.json, stop.json, R.log       as on one machine; signal.TIME: a signal to send
        nodes/K/                          what is of the K-th node alone: its plan, supervisor.json, started.json, end.json, commands,
                                          control/
            supervisor.json               made once: whoever launches this node a second time finds it and leaves
            alive                         its time stamp moves once a second
        gang/                             how the supervisors of several nodes find together
            K.set-up, K.ready, go         every node stands before its processes start, or none starts
            K.over, K.failed              that node has ended, or a rank of it has failed: the others end too
            stop-step, save-step          what rank 0 has published, for the flags of the other nodes
    STATE/news/JOB.ATTEMPT                an empty file: something has changed

A FIFO does not reach another machine: besides it, the folders are looked at a few times a second. A listing is what NFS is asked anew
each time; that a file is not there may be remembered by a client for long.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainmaster.live.node import flag, linux, remains
from trainmaster.live.node import folder as files
from trainmaster.live.node.said import acknowledged, speakers
from trainmaster.live.node.supervisor import GANG_GRACE_S, REMAINS_S, Refused, Stopped, Supervisor

NODES, GANG, ALIVE, NEWS, SIGNAL = "nodes", "gang", "alive", "news", "signal."
TICK_S = 0.2  # between two looks at the folders
ALIVE_S = 1.0
CUT_OFF_S = 8.0  # a node that cannot say for so long that it is alive ends what it runs: others take it for lost
PUBLISHED = {"stop-step": flag.STOP_STEP, "save-step": flag.SAVE_STEP}
RELAY_S = 1.0  # what rank 0 publishes has reached the other nodes by then
MOST_MARGIN = 100_000
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.003, 0.1  # between two looks for the other nodes
ONE_TASK = ("--nodes=1", "--ntasks=1", "--overlap", "--mpi=none", "--quiet", "--unbuffered", "--input=none")
ROOT = str(Path(__file__).parents[3])
TASK = "import sys; sys.path.insert(0, sys.argv[1]); from trainmaster.live.node.gang import run_task; run_task(sys.argv[2])"
FOR_SLURM = ("PATH", "HOME", "USER", "LOGNAME", "SLURM_CONF", "LC_ALL")  # its commands take any other SLURM_... for an option
LAUNCHER = ("TRAINMASTER_LAUNCHER", "1")  # marks Slurm's srun, to which signals mean something of its own
OF_SLURM = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK", "SLURM_JOB_GPUS")


def own_folder(attempt_folder: str, node: int) -> str:
    return f"{attempt_folder}/{NODES}/{node:d}"


def who() -> dict[str, Any]:
    """This process, so that another can tell whether it is still there, and whether it could see it at all."""
    return {"pid": os.getpid(), "born": linux.birth(os.getpid()), "pid_space": pid_space(), "host": socket.gethostname(),
            "slurm_job": os.environ.get("SLURM_JOB_ID")}  # fmt: skip


def pid_space() -> str:
    """In which pids mean the same: a container has its own."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"


def is_dead(them: dict[str, Any]) -> bool:
    """Of a `supervisor.json`: known to be gone. One of another machine is not known of."""
    return them.get("pid_space") == pid_space() and linux.birth(int(them["pid"])) != them["born"]


def marker(own: str) -> str:
    return f"TRAINMASTER_CONTROL={own}/{files.CONTROL}"


def clear(own: str, within_s: float) -> bool:
    """True: no process of that node's part of an attempt is left on this machine."""
    return remains.clear({"cgroup": None, "limits": [], "marker": marker(own)}, within_s)


class GangSupervisor(Supervisor):
    """Of node `node`, counted in the order of the attempt's shares."""

    def __init__(self, state: str, job: int, attempt: int, node: int) -> None:
        super().__init__(state, job, attempt)
        self.node = node
        self.own = own_folder(self.folder, node)
        self.control = f"{self.own}/{files.CONTROL}"
        self.gang = f"{self.folder}/{GANG}"
        self.nodes: int = len(self.plan["places"])
        self.follows = False  # it ends because another node does
        self.failed_s: float | None = None
        self.alive_s = self.heard_s = time.monotonic()
        self.control_ns = 0
        self.signals_sent: set[str] = set()
        self.relayed: dict[str, int] = {}
        self._narrow()

    def _narrow(self) -> None:
        """The plan of this node: its ranks, with the GPUs that Slurm has given. None but on the first, where srun starts the tasks."""
        mine = str(self.node)
        self.keeps = bool(self.plan["nodes"]) and self.node > 0
        self.plan["elsewhere"] = {}
        self.given = given = {name: os.environ[name] for name in OF_SLURM if name in os.environ}
        for what in ("ranks", "setups"):
            self.plan[what] = [one for one in self.plan[what] if one["env"]["SLURM_NODEID"] == mine]
            for one in self.plan[what]:
                one["env"] |= given
        self.plan["env"]["TRAINMASTER_CONTROL"] = self.control
        self.plan["marker"] = marker(self.own)

    def _who(self) -> dict[str, Any]:
        return who()

    # -- before the first process ----------------------------------------------------------------------------------------------------

    def _take_the_job(self) -> None:
        """No newer attempt has been accepted, and nothing of an older one is left on this node."""
        with open(f"{self.own}/{ALIVE}", "wb"):
            pass
        for other in files.attempts(self.state, self.job):
            path = files.attempt_folder(self.state, self.job, other)
            if other > self.attempt and os.path.exists(f"{path}/{files.PLAN}"):
                raise Refused(f"attempt {other} of this job has been accepted: this one is superseded")
            if other < self.attempt and not os.path.exists(f"{path}/{files.END}"):
                self._clear(path)

    def _clear(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            for node in os.listdir(f"{path}/{NODES}"):
                if not clear(f"{path}/{NODES}/{node}", REMAINS_S):
                    raise Refused(f"processes of an older attempt ({path}) are still there and cannot be killed")

    def _set_up(self) -> None:
        super()._set_up()
        if self.ended or self.nodes == 1:
            self._meet_rank_0(linux.free_port())
            files.write_json(f"{self.own}/{files.PLAN}", self.plan)  # for a shell that enters
            return
        port = linux.free_port() if self.node == 0 else 0
        about = {"port": port, "given": self.given, "slurm_job": os.environ.get("SLURM_JOB_ID")}
        files.write_json(f"{self.gang}/{self.node}.set-up", about)
        self._await([f"{node}.set-up" for node in range(self.nodes)])
        all_ = [files.read_json(f"{self.gang}/{node}.set-up") or {} for node in range(self.nodes)]
        self._meet_rank_0(int(all_[0].get("port", 0)))
        self._tell_srun(all_)
        files.write_json(f"{self.own}/{files.PLAN}", self.plan)

    def _tell_srun(self, set_up: Sequence[dict[str, Any]]) -> None:
        """How it starts a task on another node: by Slurm's own srun there, among what the supervisor of that node looks after."""
        if self.keeps:
            self.plan["nodes"] = []  # what is started here stays here
            files.write_bytes(f"{self.own}/entered", b"")  # its tasks are nobody's children: they are found by their environment
        for node, (env, about) in enumerate(zip(self.plan["nodes"], set_up, strict=False)):
            env |= about["given"] | {"TRAINMASTER_CONTROL": f"{own_folder(self.folder, node)}/{files.CONTROL}"}
            if node != self.node:
                where = [f"--jobid={about['slurm_job']}", f"--nodelist={self.plan['places'][node]['slurm_node']}"]
                self.plan["elsewhere"][str(node)] = {
                    "argv": ["srun", *where, *ONE_TASK, sys.executable, "-I", "-S", "-c", TASK, ROOT],
                    "env": {name: os.environ[name] for name in FOR_SLURM if name in os.environ} | dict([LAUNCHER]),
                }

    def _meet_rank_0(self, port: int) -> None:
        for rank in self.plan["ranks"]:
            if "MASTER_PORT" in rank["env"]:
                rank["env"] |= {"MASTER_ADDR": self.plan["places"][0]["address"], "MASTER_PORT": str(port)}

    def _await_others(self) -> None:
        if self.nodes == 1:
            return
        files.write_bytes(f"{self.gang}/{self.node}.ready", b"")
        if self.node == 0:
            self._await([f"{node}.ready" for node in range(self.nodes)])
            files.write_bytes(f"{self.gang}/go", b"")
        self._await(["go"])

    def _await(self, names: Sequence[str]) -> None:
        """Until these are in the gang's folder. Stopped: a node has ended, and so this one does."""
        pause_s = FIRST_PAUSE_S
        while not set(names) <= (there := set(os.listdir(self.gang))):
            if any(name.endswith((".failed", ".over")) for name in there):
                self.follows = True
                raise Stopped
            self._step(at_most_s=pause_s)
            pause_s = min(LONGEST_PAUSE_S, pause_s * 1.5)

    # -- while it runs ---------------------------------------------------------------------------------------------------------------

    def _step(self, at_most_s: float | None = None) -> None:
        super()._step(TICK_S if at_most_s is None else min(at_most_s, TICK_S))
        now_s = time.monotonic()
        if now_s > self.heard_s + TICK_S:
            self.heard_s = now_s
            try:
                self._hear()
            except OSError as error:
                self._cut_off(error)

    def _obey(self, lines: bytes) -> None:
        super()._obey(lines)
        self.heard_s = 0.0  # who pokes has written something

    def _hear(self) -> None:
        """What the folders say, to this node and of it."""
        now_s = time.monotonic()
        if now_s > self.alive_s + ALIVE_S:
            os.utime(f"{self.own}/{ALIVE}")
            self.alive_s = now_s
        there = os.listdir(self.folder)
        if files.STOP in there:
            self._look()
        for name in sorted(name for name in there if name.startswith(SIGNAL) and name not in self.signals_sent):
            self.signals_sent.add(name)
            asked = files.read_json(f"{self.folder}/{name}")
            if asked is not None and self.started_s is not None:
                self._signal(int(asked["signal"]), bool(asked["batch_only"]))
        if self._superseded():
            self._ask({"reason": "superseded", "grace_s": 0.0})
        self._share_flags()
        in_time = self.nodes > 1 and self.started_s is not None and not self.follows and not self.ended
        if in_time and any(name.endswith(".failed") for name in os.listdir(self.gang)):
            self._follow()
        changed_ns = os.stat(self.control).st_mtime_ns if os.path.isdir(self.control) else 0
        if changed_ns != self.control_ns:
            self.control_ns = changed_ns
            self._poke()

    def _superseded(self) -> bool:
        later = [other for other in files.attempts(self.state, self.job) if other > self.attempt]
        return any(os.path.exists(f"{files.attempt_folder(self.state, self.job, other)}/{files.PLAN}") for other in later)

    def _follow(self) -> None:
        """A rank elsewhere has failed: those here would wait for it for ever."""
        self.follows = True
        if self.stop is None and not self.due:
            now_s = time.monotonic()
            self.due = [(now_s, "term"), (now_s + GANG_GRACE_S, "kill")]

    def _is_registered(self) -> bool:
        """Rank 0 does it, on the first node."""
        return os.path.exists(f"{own_folder(self.folder, 0)}/{files.CONTROL}/registered")

    def _cut_off(self, error: OSError) -> None:
        if time.monotonic() > self.alive_s + CUT_OFF_S:
            print(f"its folder cannot be reached: {error}; it ends", file=sys.stderr, flush=True)
            self._kill_all()

    def _rank_ended(self, code: int) -> None:
        super()._rank_ended(code)
        if code and self.failed_s is None:
            self.failed_s = time.time()
            if self.nodes > 1 and self.stop is None and not self.follows:
                files.write_bytes(f"{self.gang}/{self.node}.failed", b"")

    def _share_flags(self) -> None:
        """The flag is memory that ranks of one node share: what rank 0 publishes in its own is carried to the others'.

        It must lie as far ahead as the way takes, or a rank would have passed it when it comes.
        """
        if self.nodes == 1 or self.started_s is None:
            return
        with contextlib.suppress(OSError, ValueError):  # a flag that the job has cut or removed is nobody else's affair
            self._share(flag.read(self.control))

    def _share(self, raised: Sequence[int]) -> None:
        if self.node == 0:
            for name, place in PUBLISHED.items():
                if raised[place] > self.relayed.get(name, 0):
                    files.write_json(f"{self.gang}/{name}", {"step": raised[place]})
                    self.relayed[name] = raised[place]
            rate = (files.read_json(f"{self.control}/progress", 1 << 16) or {}).get("rate")
            if isinstance(rate, (int, float)) and 0 < rate < MOST_MARGIN:
                flag.put(self.control, flag.MARGIN, flag.MARGIN_STEPS + int(rate * RELAY_S) + 1)
            return
        for name, place in PUBLISHED.items():
            published = files.read_json(f"{self.gang}/{name}") or {}
            if raised[place] < (step := int(published.get("step", 0))):
                flag.put(self.control, place, step)

    def _who_hears(self) -> list[int]:
        """Tasks that srun has started here are found by their environment; of those elsewhere only the launcher is here."""
        if self.keeps:
            return linux.marked(self.plan["marker"])
        launchers = linux.marked("=".join(LAUNCHER)) if self.plan["elsewhere"] else []
        return [pid for pid in super()._who_hears() if pid not in launchers]

    def _to_groups(self, number: int) -> None:
        super()._to_groups(number)
        if self.keeps:
            linux.kill(self._who_hears(), number)

    def _let_groups_end(self) -> None:
        """Where srun starts the tasks, the other nodes are there as long as the first."""
        while self.keeps and not self.killed and "0.over" not in os.listdir(self.gang):
            self._step()
        super()._let_groups_end()

    # -- at the end ------------------------------------------------------------------------------------------------------------------

    def _account(self, outcome: dict[str, Any]) -> dict[str, Any]:
        by_all = acknowledged(self.control, speakers(self.plan["ranks"]))
        if self.nodes > 1:
            files.write_bytes(f"{self.gang}/{self.node}.over", b"")
        return {**super()._account(outcome), "acknowledged": by_all, "follows": self.follows, "failed_s": self.failed_s}

    def _poke(self) -> None:
        with contextlib.suppress(OSError):
            os.close(os.open(f"{self.state}/{NEWS}/{self.job}.{self.attempt}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        super()._poke()


def main(state: str, job: str, attempt: str, part: str) -> None:
    """On a node, by Slurm. It says nothing with its exit status: how it went is in its folder."""
    os.umask(0o077)
    linux.call_this_process(f"tm {job}.{attempt}")
    linux.adopt_orphans()
    folder = files.attempt_folder(state, int(job), int(attempt))
    plan = files.read_json(f"{folder}/{files.PLAN}")
    if plan is None:
        print(f"{folder}: over, or never accepted: nothing is run", file=sys.stderr)
        return
    here = os.environ["SLURMD_NODENAME"]
    node = next(node for node, one in enumerate(plan["places"]) if one["part"] == int(part) and one["slurm_node"] == here)
    own = own_folder(folder, node)
    first = files.read_json(f"{own}/{files.SUPERVISOR}")
    if first is None:
        GangSupervisor(state, int(job), int(attempt), node).run()
    elif first["pid"] and is_dead(first) and not os.path.exists(f"{own}/{files.END}"):
        _bury(state, own, first, f"{job}.{attempt}")


def run_task(path: str) -> None:
    """One of srun's, on a node that is not the script's."""
    task = files.read_json(path)
    if task is None:
        sys.exit(f"{path}: not there: its job is over")
    os.unlink(path)
    argv = task["argv"]
    try:
        os.chdir(task["cwd"])
        os.execvpe(argv[0], argv, task["env"])
    except OSError as error:
        print(f"srun: error: {argv[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


def _bury(state: str, own: str, first: dict[str, Any], key: str) -> None:
    """Slurm has started a second life of a job whose first was killed: it is not run again, and nothing of it is left."""
    if clear(own, REMAINS_S):
        lost = f"its supervisor (pid {first['pid']}) was killed, and Slurm started it a second time"
        files.create_json(f"{own}/{files.END}", {"lost": lost, "started_s": None, "ended_s": time.time(), "asked": None})
        with contextlib.suppress(OSError):
            files.write_bytes(f"{state}/{NEWS}/{key}", b"")
