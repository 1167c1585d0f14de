"""A small cluster of Ray on this machine, with as many nodes and GPUs as one likes: to try things, and for the tests.

    python scripts/ray_cluster.py [--nodes 2] [--gpus 4] [--port 6380]

Runs in the foreground; Ctrl-C ends it and nothing else (`ray stop` would end every Ray process of the machine). GPUs are declared, so
that none is needed. The head has neither CPUs nor GPUs to give.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trainmaster.errors import BackendError
from trainmaster.live.node import linux

START_S = 120.0
TRIES = 3  # a node has 30 s to start in, says Ray, which may be too few where many want the processor
STOP_S = 15.0
STORE_BYTES = 80 << 20  # of each node's object store, which Trainmaster hardly uses
MAIN = "from ray.scripts.scripts import main; main()"
QUIET = {"RAY_SCHEDULER_EVENTS": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


class RayCluster:
    """Its processes, by what they are: "head", and the names of the nodes."""

    def __init__(self, folder: Path | None = None, *, port: int = 0, dashboard: bool = False) -> None:
        """`dashboard`: the head serves the job API, too."""
        self.folder = folder or Path(tempfile.mkdtemp(prefix="tm-ray-", dir="/tmp"))  # sockets in it: its path must be short
        self.address = f"127.0.0.1:{port or _free_port()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._mine: set[tuple[int, str | None]] = set()  # pid and birth of all that were seen
        self._port = self.address.partition(":")[2]
        self.dashboard_port = _free_port() if dashboard else 0

    def start_head(self) -> None:
        port = self.dashboard_port
        web = ["--include-dashboard=true", f"--dashboard-port={port}"] if port else ["--include-dashboard=false"]
        self._start("head", [
            "--head", f"--port={self._port}", f"--temp-dir={self.folder}", f"--ray-client-server-port={_free_port()}", *web,
            "--num-cpus=0", "--num-gpus=0",
        ])  # fmt: skip

    def start_node(self, name: str, *, gpus: int = 4, cpus: int = 8) -> None:
        """To be waited for before the next: Ray cannot tell two nodes of one machine apart that start at the same time."""
        self._start(name, [f"--address={self.address}", f"--node-name={name}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"])

    def bring_up(self, *names: str, **about: int) -> None:
        """The head, and then these nodes, one after the other."""
        self.start_head()
        self.wait()
        for name in names:
            self.add(name, **about)

    def add(self, name: str, **about: int) -> None:
        for left in reversed(range(TRIES)):
            self.start_node(name, **about)
            try:
                self.wait(name)
                return
            except BackendError:
                if not left:
                    raise
                self.end_node(name)

    def _start(self, name: str, options: list[str]) -> None:
        argv = [sys.executable, "-c", MAIN, "start", "--block", "--disable-usage-stats", f"--object-store-memory={STORE_BYTES}", *options]
        with open(self.folder / f"{name}.out", "ab") as out:
            self.processes[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **QUIET}, start_new_session=True, cwd="/"
            )

    def wait(self, *names: str) -> None:
        """Until Ray knows these nodes to be alive; without a name, until the head answers."""
        from ray._raylet import GcsClient

        until_s = time.monotonic() + START_S
        while True:
            with contextlib.suppress(Exception):  # it does not answer yet
                nodes = GcsClient(address=self.address).get_all_node_info(timeout=2).values()
                if set(names) <= {node.node_name for node in nodes if node.state == 0}:
                    return
            for name, process in self.processes.items():
                if process.poll() is not None and (name in names or name == "head"):
                    raise BackendError(f"Ray's {name} has ended; {self.folder / f'{name}.out'} says why: {self.said(name)}")
            if time.monotonic() > until_s:
                raise BackendError(f"no cluster of Ray within {START_S:g} s; see {self.folder}")
            time.sleep(0.1)

    def said(self, name: str) -> str:
        lines = (self.folder / f"{name}.out").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing"

    def pids(self, name: str, program: str = "") -> list[int]:
        """Of this node's processes, those that run `program` (raylet, gcs_server), or all."""
        all_ = linux.descendants(self.processes[name].pid)
        return [pid for pid in all_ if not program or _program(pid) == program]

    def kill(self, name: str, program: str, number: int = signal.SIGKILL) -> None:
        """One process of a node, as a crash would. Its workers stay, as orphans."""
        self._remember()
        linux.kill(self.pids(name, program), number)

    def end_node(self, name: str) -> None:
        """All that is left of a node."""
        self._remember()
        process = self.processes.pop(name)
        linux.kill(linux.descendants(process.pid), signal.SIGKILL)
        process.kill()
        process.wait()

    def _remember(self) -> None:
        for process in self.processes.values():
            for pid in linux.descendants(process.pid):
                self._mine.add((pid, linux.birth(pid)))

    def stop(self) -> None:
        self._remember()
        for process in self.processes.values():
            process.terminate()
        until_s = time.monotonic() + STOP_S
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until_s - time.monotonic()))
        left = [pid for pid, born in self._mine if born is not None and linux.birth(pid) == born]
        linux.kill(left, signal.SIGKILL)
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.processes.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def _program(pid: int) -> str:
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=4, help="of each node")
    parser.add_argument("--cpus", type=int, default=8, help="of each node")
    parser.add_argument("--port", type=int, default=6380, help="of the head")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    cluster = RayCluster(port=args.port, dashboard=True)
    names = [f"n{number}" for number in range(1, args.nodes + 1)]
    try:
        cluster.bring_up(*names, gpus=args.gpus, cpus=args.cpus)
        print(f"{len(names)} nodes of {args.gpus} GPUs; in another terminal:\n")
        print(f"    trainmaster up --backend ray --address {cluster.address}\n\nCtrl-C ends them", flush=True)
        while all(process.poll() is None for process in cluster.processes.values()):
            time.sleep(0.5)
        print("a process of it has ended", file=sys.stderr)
    except (KeyboardInterrupt, BackendError) as end:
        if isinstance(end, BackendError):
            print(end, file=sys.stderr)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
