#!/usr/bin/env python3
"""A small Slurm cluster on this machine: the real slurmctld and several real slurmd, with GPUs that are none; for trying out and for tests.

    scripts/slurm_cluster.py install                              Debian's packages, by apt (as root)
    scripts/slurm_cluster.py start DIR [--nodes 4] [--gpus 8]     prints the line that points Slurm's commands at it
    scripts/slurm_cluster.py stop DIR                             jobs, daemons and their files; nothing stays

Everything is below DIR: configuration, keys, state, logs, pids, the fake GPUs. Nothing in /etc is read or written, ports are free ones, so
that several clusters can run side by side; one whose nodes have the names of another tracks processes without cgroups (--prefix names them
otherwise). It needs root (slurmd starts jobs, GPUs are device nodes) but neither systemd nor a database.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = ("slurm-wlm", "slurm-client", "slurm-wlm-basic-plugins", "munge")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue")
START_S = 5.0
PATIENCE_S = 30.0

CLUSTER = "ClusterName=trainmaster-try"
CONF = CLUSTER + """
SlurmctldHost=localhost
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={dir}/munge.socket,cred_expire=5
SlurmctldPort={port}
StateSaveLocation={dir}/slurmctld
SlurmdSpoolDir={dir}/slurmd.%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd.%n.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd.%n.log
ProctrackType={proctrack}
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout={slurmd_timeout}
KillWait=5
MaxJobCount=20000
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
CGROUP_V1 = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=yes\n"


class Failed(Exception):
    """One line: what is wrong, and what to do."""


def missing() -> list[str]:
    """Programs of Slurm's that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]


class SmallCluster:
    """Nodes n1, n2, ...; `start` and `stop` as a whole, and each daemon by itself, for those who want to see one die."""

    def __init__(self, folder: Path, nodes: int = 4, gpus: int = 8, prefix: str = "n", slurmd_timeout_s: int = 30) -> None:
        self.folder = folder.absolute()
        self.gpus, self.slurmd_timeout_s = gpus, slurmd_timeout_s
        self.prefix = prefix
        self.names = [f"{prefix}{number}" for number in range(1, nodes + 1)]
        self.conf = self.folder / "slurm.conf"
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        self.env = {"PATH": path, "SLURM_CONF": str(self.conf), "HOME": os.environ.get("HOME", "/"), "LC_ALL": "C"}

    # -- the whole -------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if absent := missing():
            raise Failed(f"{', '.join(absent)}: not installed; scripts/slurm_cluster.py install (as root)")
        if os.getuid() != 0:
            raise Failed("the daemons start jobs and the fake GPUs are device nodes: run this as root, in a container say")
        if self.folder.exists() and any(self.folder.iterdir()):
            what = f"a cluster is there already; scripts/slurm_cluster.py stop {self.folder}" if self.conf.exists() else "is not empty"
            raise Failed(f"{self.folder}: {what}")
        self._write()
        try:
            self.start_munged()
            self.start_controller()
            for name in self.names:
                self.start_node(name)
            self.until_idle()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Jobs first, so that their processes are ended by those who started them."""
        if not self.conf.exists() or CLUSTER not in self.conf.read_text().splitlines():
            raise Failed(f"{self.folder}: no cluster of this script's is there")
        nodes = [path.name.split(".")[1] for path in self.folder.glob("slurmd.*") if path.is_dir()]
        if self.alive("slurmctld"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.run("scancel", f"--user={os.getuid()}", within_s=5)
                self.wait(lambda: not self.run("squeue", "-h", within_s=5).strip(), 8)
        daemons = [*(f"slurmd.{name}" for name in nodes), "slurmctld", "munged"]
        for name in daemons:
            self.end(name, signal.SIGTERM)
        for name in daemons:
            if not self.wait(lambda name=name: not self.alive(name), 5):  # type: ignore[misc]
                self.end(name, signal.SIGKILL)
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait(lambda: not self.left(), 5)
        for name in nodes:
            with contextlib.suppress(OSError):  # Slurm leaves its cgroups
                os.rmdir(f"/sys/fs/cgroup/freezer/slurm_{name}")
        shutil.rmtree(self.folder, ignore_errors=True)

    def left(self) -> list[int]:
        """Processes of this cluster: its daemons, slurmstepd, and whatever they have started that kept its environment."""
        mark, found = f"SLURM_CONF={self.conf}".encode(), []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                ours = name.isdecimal() and mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
                if ours and _daemon(int(name)):
                    found.append(int(name))
        return found

    def _write(self) -> None:
        for name in ("", "slurmctld", "dev", *(f"slurmd.{node}" for node in self.names)):
            (self.folder / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        for index in range(self.gpus):  # the null device under other names; slurmd asks for a device node, not for a GPU
            device = self.folder / "dev" / f"gpu{index}"
            if not device.exists():
                os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        ports = _free_ports(1 + len(self.names))
        listed = "\n".join(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={max(8, self.gpus)} RealMemory=4000"
            + (f" Gres=gpu:v100:{self.gpus}" if self.gpus else "")
            for name, port in zip(self.names, ports[1:], strict=True)
        )
        taken = any(map(_runs_slurmd, self.names))  # by another cluster on this machine: Slurm calls its cgroups by the nodes' names
        frozen = not taken and os.access("/sys/fs/cgroup/freezer", os.W_OK)
        self.conf.write_text(CONF.format(
            dir=self.folder, port=ports[0], nodes=listed, slurmd_timeout=self.slurmd_timeout_s,
            proctrack="proctrack/cgroup" if frozen else "proctrack/linuxproc",
        ))  # fmt: skip
        (self.folder / "cgroup.conf").write_text(CGROUP_V1 if frozen else "")
        every = f"{self.prefix}[1-{len(self.names)}]"
        gres = f"NodeName={every} Name=gpu Type=v100 File={self.folder}/dev/gpu[0-{self.gpus - 1}]\n" if self.gpus else ""
        (self.folder / "gres.conf").write_text(f"AutoDetect=off\n{gres}")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)

    # -- daemons ---------------------------------------------------------------------------------------------------------------------

    def start_munged(self) -> None:
        at = self.folder
        self.run(
            "munged", "--force", f"--socket={at}/munge.socket", f"--key-file={at}/munge.key", f"--pid-file={at}/munged.pid",
            f"--log-file={at}/munged.log", f"--seed-file={at}/munged.seed",
        )  # fmt: skip

    def start_controller(self) -> None:
        self._start("slurmctld", "slurmctld")

    def start_node(self, name: str) -> None:
        self._start(f"slurmd.{name}", "slurmd", "-N", name)

    def _start(self, daemon: str, *argv: str) -> None:
        """Never a second beside a living one, with which it would share its files: until it has written down its pid, or has died."""
        (self.folder / f"{daemon}.pid").unlink(missing_ok=True)
        self.run(*argv)
        self.wait(lambda: self.alive(daemon), START_S)

    def pid(self, daemon: str) -> int | None:
        """Of `slurmctld`, `munged` or `slurmd.NODE`."""
        try:
            return int((self.folder / f"{daemon}.pid").read_text())
        except (OSError, ValueError):
            return None

    def alive(self, daemon: str) -> bool:
        pid = self.pid(daemon)
        return pid is not None and _daemon(pid)

    def end(self, daemon: str, number: int) -> None:
        pid = self.pid(daemon)
        if pid is not None and _daemon(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def until_idle(self) -> None:
        """slurmctld returns before some of its own checks: only what sinfo says counts."""
        if not self.wait(lambda: set(self.run("sinfo", "-h", "-N", "-o", "%T", fails=True).split()) == {"idle"}, PATIENCE_S):
            log = (self.folder / "slurmctld.log").read_text().splitlines()[-3:] if (self.folder / "slurmctld.log").exists() else []
            raise Failed(f"the nodes are not idle after {PATIENCE_S:g} s: {' | '.join(log)}")

    def wait(self, done: object, within_s: float) -> bool:
        until_s = time.monotonic() + within_s
        while time.monotonic() < until_s:
            if done():  # type: ignore[operator]
                return True
            time.sleep(0.05)
        return False

    def run(self, *argv: str, within_s: float = PATIENCE_S, fails: bool = False) -> str:
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=within_s, stdin=subprocess.DEVNULL, check=False)
        if done.returncode and not fails:
            raise Failed(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip().splitlines()[-1:] or done.returncode}")
        return done.stdout


def install() -> None:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["apt-get", "-q", "update"], ["apt-get", "-q", "install", "-y", "--no-install-recommends", *PACKAGES]):
        if subprocess.run(argv, env=quiet, stdout=subprocess.DEVNULL, check=False).returncode:
            raise Failed(f"{' '.join(argv)} failed; as root, on Debian or Ubuntu?")


def _daemon(pid: int) -> bool:
    """Alive, and one of Slurm's or munged: a pid may be another's by now."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X") and name.startswith(("slurm", "munged", "srun", "sbatch"))


def _runs_slurmd(name: str) -> bool:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and (entry / "cmdline").read_bytes().startswith(f"slurmd\0-N\0{name}\0".encode()):
                return True
    return False


def _free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to connections: a daemon that is started again finds its own still free."""
    found: list[int] = []
    for port in random.sample(range(10_000, 32_000), 20_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            break
    return found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("install", help="Slurm's packages, by apt")
    for verb, what in (("start", "a cluster below DIR"), ("stop", "it, and remove DIR")):
        one = verbs.add_parser(verb, help=what)
        one.add_argument("dir", type=Path, metavar="DIR")
        if verb == "start":
            one.add_argument("--nodes", type=int, default=4, help="default: 4")
            one.add_argument("--prefix", default="n", help="their names: n1, n2, ... (default)")
            one.add_argument("--gpus", type=int, default=8, help="fake ones on each node (default: 8)")
    args = parser.parse_args(argv)
    try:
        if args.verb == "install":
            install()
        elif args.verb == "start":
            cluster = SmallCluster(args.dir, args.nodes, args.gpus, args.prefix)
            cluster.start()
            print(f"export SLURM_CONF={cluster.conf}")
        else:
            SmallCluster(args.dir).stop()
    except (Failed, OSError, subprocess.TimeoutExpired) as error:
        print(f"slurm_cluster: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
