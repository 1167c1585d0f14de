"""A real cluster for fault tests: `trainmaster up` as a process of its own, killed and started anew; jobs that write down what they did.

Each job appends to a file of its own: `begin ATTEMPT PID TIME`, `overlap ...` if the attempt before it is still there, and `end` or
`stopped`. It saves its step in its checkpoint folder, and goes on from there, so that its last attempt says how far it came in all.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from live.faults.story import all_events, check_story
from trainmaster.errors import Conflict, InputError, NotFound, TrainmasterError
from trainmaster.live.client import Client
from trainmaster.live.control import JobFilter, JobRecord
from trainmaster.live.states import State
from trainmaster.live.store import Store

T = TypeVar("T")
SOURCE = Path(__file__).parents[3] / "src"
MAIN = "import sys; from trainmaster.cli.main import main; sys.exit(main())"
SLOTS = 4
PATIENCE_S = 60.0
COMPILING_S = 300.0  # the engine's kernels, where nobody has yet

RULES = """
rules: {min_run_s: 0, poll_s: 0.2, most_preemptions: 0, start_timeout_s: 30, backoff_s: 0.5, stop_alert_s: 2}
"""

JOB = r"""
file=$1 steps=$2 code=$3 checkpoints=$4
say() { echo "$1 $TRAINMASTER_ATTEMPT $$ $(date +%s.%N)" >> "$file"; }
last=$(grep '^begin' "$file" 2>/dev/null | tail -1 | cut -d' ' -f3)
if [ -n "$last" ] && [ -n "$(tr -d '\0' < "/proc/$last/cmdline" 2>/dev/null)" ]; then say overlap; fi  # a zombie has none
say begin
trap 'say stopped; exit 143' TERM
step=$(cat "$TRAINMASTER_CHECKPOINT_DIR/step" 2>/dev/null || echo 0)
if [ "$checkpoints" = 1 ]; then
    echo '{"rank": 0, "at_s": 0}' > "$TRAINMASTER_CONTROL/r.tmp" && mv "$TRAINMASTER_CONTROL/r.tmp" "$TRAINMASTER_CONTROL/registered"
fi
while [ "$step" -lt "$steps" ]; do
    sleep 0.1
    step=$((step + 1))
    echo "$step" > "$TRAINMASTER_CHECKPOINT_DIR/step.tmp" && mv "$TRAINMASTER_CHECKPOINT_DIR/step.tmp" "$TRAINMASTER_CHECKPOINT_DIR/step"
    if [ "$checkpoints" = 1 ] && [ -e "$TRAINMASTER_CONTROL/stop" ] && [ "$step" -lt "$steps" ]; then
        echo "{\"step\": $step, \"saved_step\": $step, \"at_s\": 0}" > "$TRAINMASTER_CONTROL/a.tmp"
        mv "$TRAINMASTER_CONTROL/a.tmp" "$TRAINMASTER_CONTROL/ack.0"
        say stopped
        exit 0
    fi
done
say end
exit "$code"
"""


class Cluster:
    """One state folder, and the controllers that come and go over it."""

    def __init__(self, folder: Path, *flags: str, store: str | None = None, file_limit_bytes: int | None = None) -> None:
        self.folder, self.state = folder, folder / "state"
        (folder / "config.yaml").write_text(RULES)
        (folder / "said").mkdir(exist_ok=True)
        self.store_url = store or f"sqlite:///{self.state / 'store.db'}"
        self.flags = [*flags, *(["--store", store] if store else [])]
        self.file_limit_bytes = file_limit_bytes
        with socket.socket() as probe:  # one port for all controllers, as a site has: clients that wait find the next one there
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0

    def argv(self) -> list[str]:
        where = ["--state", str(self.state), "--port", str(self.port), "--config", str(self.folder / "config.yaml")]
        return [sys.executable, "-c", MAIN, "up", *where, "--slots", str(SLOTS), *self.flags]

    def spawn(self) -> None:
        """It need not answer yet."""
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONFAULTHANDLER": "1"}
        limit = ["prlimit", f"--fsize={self.file_limit_bytes}:unlimited", "--"] if self.file_limit_bytes is not None else []
        with open(self.folder / "up.log", "ab") as log:
            self.process = subprocess.Popen([*limit, *self.argv()], stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kills += 1

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def until_it_answers(self) -> dict[str, Any]:
        return self.insist(lambda client: client.status(), COMPILING_S)

    def insist(self, ask: Callable[[Client], T], patience_s: float = PATIENCE_S) -> T:
        """As a client does that must have an answer: whoever is the controller by then gives it."""
        until_s = time.monotonic() + patience_s
        while True:
            try:
                with Client.of_state(self.state) as client:
                    return ask(client)
            except (NotFound, InputError):
                raise
            except TrainmasterError as refusal:
                if time.monotonic() > until_s:
                    raise AssertionError(f"no answer for {patience_s:g} s ({refusal}); up.log ends:\n{self.log()}") from None
                time.sleep(0.05)

    def log(self) -> str:
        """Its last lines, and where a controller that does not answer stands."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
        return (self.folder / "up.log").read_text()[-6_000:]

    def spec(self, name: str, *, steps: int, gpus: float = 1, code: int = 0, checkpoints: bool = False, **more: Any) -> dict[str, Any]:
        command = ["/bin/sh", "-c", JOB, "job", str(self.folder / "said" / name), str(steps), str(code), str(int(checkpoints))]
        return {"name": name, "command": command, "gpus": gpus, "workdir": str(self.folder), "env": {"PATH": os.environ["PATH"]},
                "grace_s": 10, **more}  # fmt: skip

    # ------------------------------------------------------------------------------------------------- what must hold

    def ended(self, ids: list[int]) -> None:
        """All of them, and all GPUs are free."""
        for id in ids:
            record = self.insist(lambda client, id=id: client.wait(id, PATIENCE_S))
            assert record["finish_s"] is not None, f"{record}\n{self.log()}"
        for _ in range(100):
            if all(node["free_gpus"] == SLOTS for node in self.insist(lambda client: client.nodes())):
                return
            time.sleep(0.1)
        raise AssertionError(f"GPUs are still held: {self.insist(lambda client: client.nodes())}")

    def check(self, *, lost: bool = False) -> list[JobRecord]:
        """After the last controller has stopped. `lost`: attempts may have been lost on the way."""
        store = Store.open(self.store_url, owner="the test:0", now=time.time)
        try:
            records = store.jobs(JobFilter(all=True))
            assert [record.id for record in records] == sorted({record.id for record in records})
            by_job: dict[int | None, list[Any]] = {}
            for event in all_events(store):
                by_job.setdefault(event.job, []).append(event)
            for record in records:
                assert record.state.ended, record
                check_story(record, by_job[record.id], store.attempts(record.id))
                self.check_said(record)
                if not lost:
                    assert record.failures == 0, f"{record}: an attempt was not adopted"
                    suspended = sum(event.kind == "suspend" for event in by_job[record.id])
                    told = [(attempt.attempt, attempt.state, attempt.reason) for attempt in store.attempts(record.id)]
                    refused = sum(state == "refused" for _, state, _ in told)  # nothing of it ever ran
                    assert record.attempts <= 1 + record.preemptions + suspended + refused, (record, told)
        finally:
            store.close()
        assert not self.processes(), f"left behind: {self.processes()}"
        return records

    def check_said(self, record: JobRecord) -> None:
        """The job's own words against the store's."""
        file = self.folder / "said" / record.name
        lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        begun = [int(attempt) for word, attempt, _, _ in lines if word == "begin"]
        assert begun == sorted(set(begun)), f"{record.id}: {lines}"
        assert all(1 <= attempt <= record.attempts for attempt in begun), f"{record.id}: {lines}, {record}"
        assert not [line for line in lines if line[0] == "overlap"], f"{record.id} ran twice at once: {lines}"
        open_ = None
        for word, attempt, _, _ in lines:  # an attempt says nothing once the next has begun
            open_ = attempt if word == "begin" else open_
            assert attempt == open_, f"{record.id}: {lines}"
        ends = [line for line in lines if line[0] == "end"]
        if record.state in (State.SUCCEEDED, State.FAILED):
            assert ends and int(ends[-1][1]) == record.attempts, f"{record}: {lines}"
            # one that failed while it was asked to stop is run again, and one that was killed between its last word and its exit
            assert len(ends) <= 1 + record.preemptions + record.failures, f"{record}: {lines}"
            assert (record.state is State.FAILED) == (record.exit_code != 0), record
        else:
            assert record.state is State.CANCELLED and len(ends) <= 1, f"{record}: {lines}"

    def processes(self) -> list[str]:
        """Those of jobs and supervisors of this state folder, or of its fork server."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    marked = f"{self.state}/".encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                    if marked and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                        found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200])
        return found

    def close(self) -> None:
        """Whatever the test has left."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class People(threading.Thread):
    """Somebody who submits, cancels, suspends and resumes until told to stop; every request is repeated until it is answered."""

    def __init__(self, cluster: Cluster, seed: int, jobs: int) -> None:
        super().__init__(daemon=True)
        self.cluster, self.rng, self.seed, self.jobs = cluster, random.Random(f"people {seed}"), seed, jobs
        self.codes: dict[int, int] = {}  # of the jobs that were accepted
        self.cancelled: set[int] = set()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while len(self.codes) < self.jobs:
                self.act()
                time.sleep(self.rng.uniform(0.0, 0.3))
        except BaseException as failure:
            self.failure = failure

    def act(self) -> None:
        rng, cluster = self.rng, self.cluster
        number, count = len(self.codes), rng.choice([1, 1, 1, 2, 4])
        code = rng.choice([0, 0, 0, 3])
        specs = [cluster.spec(f"j{number + i}", steps=rng.choice([1, 5, 10, 30]), gpus=rng.choice([0.5, 1, 1, 2, 4]), code=code,
                              checkpoints=rng.random() < 0.6, priority=rng.choice([0, 0, 1])) for i in range(count)]  # fmt: skip
        key = f"{self.seed}-{number}"
        ids = cluster.insist(lambda client: client.submit_all(specs, key=key))
        assert len(ids) == count and not self.codes.keys() & set(ids), f"ids were used again: {ids}"
        self.codes |= dict.fromkeys(ids, code)
        if rng.random() < 0.3:
            some = rng.choice(list(self.codes))
            cluster.insist(lambda client: client.cancel([some]))
            self.cancelled.add(some)
        if rng.random() < 0.2:
            some = rng.choice(list(self.codes))
            with suppress(AssertionError):
                self.suspend_and_resume(some)

    def suspend_and_resume(self, job: int) -> None:
        def once(verb: str) -> None:
            def ask(client: Client) -> None:
                with suppress(Conflict):  # it has ended, or an earlier try was heard
                    getattr(client, verb)([job])

            self.cluster.insist(ask)

        once("suspend")
        once("resume")


def kill_often(cluster: Cluster, seed: int, kills: int, jobs: int) -> dict[str, Any]:
    """So many deaths of the controller while people work, each at a random instant after the one before; then all jobs end."""
    rng = random.Random(f"kills {seed}")
    began_s = time.monotonic()
    cluster.spawn()
    cluster.until_it_answers()
    up_s = time.monotonic() - began_s
    people = People(cluster, seed, jobs)
    people.start()
    for _ in range(kills):
        time.sleep(rng.choice([rng.uniform(0.0, up_s), up_s + rng.uniform(0.0, 1.5)]))  # some before it even answers
        cluster.kill()
        cluster.spawn()
    people.join(PATIENCE_S + 60)
    assert not people.is_alive(), f"people still wait for an answer\n{cluster.log()}"
    if people.failure is not None:
        raise people.failure
    cluster.ended(list(people.codes))
    assert cluster.stop() == 0, cluster.log()
    records = cluster.check()
    assert {record.id for record in records} == people.codes.keys()
    for record in records:
        if record.state is State.CANCELLED:
            assert record.id in people.cancelled
        else:
            assert record.exit_code == people.codes[record.id], record
    return {"seed": seed, "kills": kills, "jobs": len(records), "attempts": sum(record.attempts for record in records),
            "preemptions": sum(record.preemptions for record in records), "up_s": up_s, "took_s": time.monotonic() - began_s}  # fmt: skip
