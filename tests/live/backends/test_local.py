"""What the local backend alone has: supervisors, a fork server, and what happens when they are killed, full or mute."""

import contextlib
import errno
import json
import os
import random
import signal
import socket
import stat
import sys
import time
from dataclasses import replace
from hashlib import blake2s
from pathlib import Path

import pytest

from trainmaster.live.backends.base import Attempt, NodeShare, Seen
from trainmaster.live.backends.local import LocalBackend
from trainmaster.live.logs import open_log, read
from trainmaster.live.node import cgroups, limits, linux
from trainmaster.live.node import folder as files
from trainmaster.live.node.log_bound import Bound

from .harness import Harness, alive

FORKING = (
    "(setsid sh -c 'trap \"\" TERM HUP; echo $$ > daemon; while :; do sleep 0.1; done' >/dev/null 2>&1 &); echo ready > ready; sleep 60"
)


def supervisor(cluster: Harness, attempt: Attempt) -> int:
    who = cluster.wait(
        lambda: files.read_json(f"{files.attempt_folder(cluster.backend.state, attempt.job, attempt.attempt)}/{files.SUPERVISOR}")
    )
    return int(who["pid"])


def fork_server(cluster: Harness) -> int:
    return int(cluster.wait(lambda: cluster.backend.report()["fork_server"]))


def test_a_controller_that_was_started_in_the_background_passes_none_of_its_ignored_signals_on(tmp_path: Path) -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGQUIT, signal.SIGUSR1)}
    try:
        site = Harness(lambda: LocalBackend(tmp_path / "state", slots=1), tmp_path)
        _, log = site.run(["grep", "SigIgn", "/proc/self/status"])
        site.close()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

    ignored = int(log.split()[1], 16)
    assert not any(ignored & 1 << number - 1 for number in before)


def test_a_signal_that_the_controller_blocks_is_not_blocked_in_its_jobs(tmp_path: Path) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        site = Harness(lambda: LocalBackend(tmp_path / "state", slots=1), tmp_path)
        _, log = site.run(["grep", "SigBlk", "/proc/self/status"])
        site.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert int(log.split()[1], 16) == 0


SAVES_AT_SIGTERM = "trap 'sleep 0.2; echo saved > saved; exit 3' TERM; {}; echo ready > ready; while :; do sleep 0.01; done"


@pytest.mark.parametrize(
    "what", ["rm -r C", "rm C/flag; mkdir C/flag", "rm C/flag; mkfifo C/flag", ": > C/flag", "mkfifo C/stop.$PPID.tmp", "mkdir C/stop"]
)
def test_a_job_that_spoils_its_control_folder_has_its_grace_all_the_same(cluster: Harness, what: str) -> None:
    attempt = cluster.start(["sh", "-c", SAVES_AT_SIGTERM.format(what.replace("C", "$TRAINMASTER_CONTROL"))])
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=20, reason="preempt")
    ended = cluster.until(attempt)
    assert (ended.seen, ended.exit_code, ended.asked_to_stop) == (Seen.ENDED, 3, True)
    assert cluster.file("saved") == "saved"


def test_its_own_signal_is_sent_although_a_second_stop_comes_at_the_same_instant(cluster: Harness) -> None:
    script = "trap 'exit 5' USR1; echo ready > ready; while :; do sleep 0.01; done"
    attempt = cluster.start(["sh", "-c", script], signal={"number": signal.SIGUSR1, "before_s": 10})
    cluster.file("ready")
    os.kill(supervisor(cluster, attempt), signal.SIGSTOP)
    cluster.backend.stop(attempt.job, 1, grace_s=30, reason="preempt")
    cluster.backend.stop(attempt.job, 1, grace_s=30, reason="preempt")
    os.kill(supervisor(cluster, attempt), signal.SIGCONT)
    assert cluster.until(attempt).exit_code == 5


def test_a_job_that_has_registered_is_left_to_stop_by_itself_after_its_own_signal(cluster: Harness) -> None:
    register = "echo {} > $TRAINMASTER_CONTROL/registered"
    steps = "while test $n -lt 60; do sleep 0.01; test $told && n=$((n + 1)); done; exit 5"
    script = f"told=; n=0; trap 'told=1' USR1; trap 'exit 6' TERM; {register}; echo ready > ready; {steps}"
    attempt = cluster.start(["sh", "-c", script], signal={"number": signal.SIGUSR1, "before_s": 0})
    cluster.file("ready")
    cluster.backend.stop(attempt.job, 1, grace_s=60, reason="preempt")
    assert cluster.until(attempt).exit_code == 5


def test_a_stranger_who_has_the_pid_of_a_rank_that_ended_gets_none_of_its_signals(cluster: Harness) -> None:
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    if os.getuid() or not os.access(last_pid, os.W_OK):
        pytest.skip("to choose a pid needs root")
    script = "test $RANK = 0 && { echo $$ > first; exit 0; }; echo ready > ready; sleep 60"
    attempt = cluster.start(["sh", "-c", script], gpus=(1, 1), ranks="gpu")
    cluster.file("ready")
    wanted = int(cluster.file("first"))
    cluster.wait(lambda: None if alive(wanted) or os.path.exists(f"/proc/{wanted}") else True)
    stranger = None
    for _ in range(200):
        last_pid.write_text(str(wanted - 1))
        one = os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, setpgroup=0)
        if one == wanted:
            stranger = one
            break
        os.kill(one, signal.SIGKILL)
        os.waitpid(one, 0)
    if stranger is None:
        pytest.skip("other processes take every pid")
    try:
        cluster.backend.stop(attempt.job, 1, grace_s=30, reason="cancel")
        assert cluster.until(attempt).exit_code == 128 + signal.SIGTERM
        assert alive(stranger)
    finally:
        os.kill(stranger, signal.SIGKILL)
        os.waitpid(stranger, 0)


@pytest.mark.parametrize(
    "owner", ["printf '\\377' > owner", "mkfifo owner", "mkdir owner", "echo $TRAINMASTER_JOB_ID > owner; mkfifo fence"]
)
def test_what_a_job_leaves_among_its_checkpoints_keeps_no_later_attempt_from_starting(cluster: Harness, owner: str) -> None:
    first = cluster.start(["sh", "-c", f"cd $TRAINMASTER_CHECKPOINT_DIR; {owner}"])
    assert cluster.until(first).exit_code == 0
    assert cluster.until(cluster.start(["true"], job=first.job, attempt=2)).exit_code == 0


def test_why_it_could_not_start_is_written_however_many_bytes_that_takes(cluster: Harness) -> None:
    refused = cluster.until(cluster.start(["true"], output="/".join(["\N{ROCKET}" * 60] * 9)))
    assert refused.seen is Seen.REFUSED
    assert "its output file: [Errno 2]" in refused.message and "\N{ROCKET}" in refused.message


@pytest.mark.parametrize("kind", ["v2", "freezer", "pids", "none"])
def test_a_killed_supervisor_takes_all_of_its_job_with_it_and_the_attempt_is_lost(
    cluster: Harness, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind != "none":
        parents = {found[0]: found for found in all_cgroups()}
        if kind not in parents:
            pytest.skip(f"this machine lets nobody make a cgroup of kind {kind}")
        monkeypatch.setattr(cluster.backend, "_cgroup", parents[kind])
    else:
        monkeypatch.setattr(cluster.backend, "_cgroup", None)
    attempt = cluster.start(["sh", "-c", FORKING])
    daemon = int(cluster.file("daemon"))
    os.kill(supervisor(cluster, attempt), signal.SIGKILL)
    lost = cluster.until(attempt)
    assert (lost.seen, lost.exit_code, lost.message) == (Seen.LOST, None, "its supervisor was killed")
    assert not alive(daemon)
    again = cluster.start(["true"], job=attempt.job, attempt=2)
    assert cluster.until(again).exit_code == 0


def all_cgroups() -> list[tuple[str, str]]:
    found = []
    mounts, own = cgroups.mounts(), cgroups.own()
    for kind, controller in (("v2", ""), ("freezer", "freezer"), ("pids", "pids")):
        if (
            controller in mounts
            and controller in own
            and cgroups._works(kind, parent := os.path.normpath(f"{mounts[controller]}/{own[controller]}"))
        ):
            found.append((kind, parent))
    return found


@pytest.mark.parametrize("kind", ["freezer", "pids", "none"])
def test_nothing_is_left_of_a_job_whatever_kind_of_cgroup_there_is(cluster: Harness, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {one[0]: one for one in all_cgroups()}
    if kind != "none" and kind not in found:
        pytest.skip(f"this machine lets nobody make a cgroup of kind {kind}")
    monkeypatch.setattr(cluster.backend, "_cgroup", found.get(kind))
    attempt = cluster.start(["sh", "-c", FORKING])
    daemon = int(cluster.file("daemon"))
    cluster.backend.stop(attempt.job, 1, grace_s=0, reason="cancel")
    assert cluster.until(attempt).exit_code == 137
    assert not alive(daemon)
    if kind != "none":
        assert not [name for name in os.listdir(found[kind][1]) if name.endswith(f"-{attempt.job}.1") and cgroup_is_ours(cluster, name)]


def cgroup_of(cluster: Harness, name: str) -> bool:
    return name.startswith(f"trainmaster-{blake2s(cluster.backend.state.encode(), digest_size=4).hexdigest()}-")


def cgroup_is_ours(cluster: Harness, name: str) -> bool:
    plan = files.read_json(f"{files.attempt_folder(cluster.backend.state, int(name.rpartition('-')[2].split('.')[0]), 1)}/{files.PLAN}")
    return plan is not None and plan["cgroup"]["folder"].endswith(name)


def test_a_supervisor_that_was_killed_while_the_controller_was_away_is_found_lost(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", FORKING])
    daemon = int(cluster.file("daemon"))
    who = supervisor(cluster, attempt)
    cluster.backend.drop()
    os.kill(who, signal.SIGKILL)
    cluster.crash()
    assert cluster.until(attempt).seen is Seen.LOST
    assert not alive(daemon)


def test_the_fork_server_may_be_killed_at_any_time(cluster: Harness) -> None:
    running = cluster.start(["sh", "-c", "while ! test -e go; do sleep 0.01; done; exit 4"])
    cluster.running(running)
    os.kill(fork_server(cluster), signal.SIGKILL)
    after = [cluster.start(["sh", "-c", f"exit {code}"]) for code in (1, 2, 3)]
    assert [cluster.until(attempt).exit_code for attempt in after] == [1, 2, 3]
    (cluster.folder / "go").touch()
    assert cluster.until(running).exit_code == 4


def test_the_fork_server_goes_with_a_controller_that_closes(tmp_path: Path) -> None:
    site = Harness(lambda: LocalBackend(tmp_path / "state", slots=1), tmp_path)
    server = fork_server(site)
    site.backend.close()
    assert site.wait(lambda: not alive(server) or None)


def test_the_fork_server_hears_one_that_is_gone_without_having_read_its_hello(cluster: Harness) -> None:
    server = fork_server(cluster)
    folder = os.open(cluster.backend.state, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
        one.connect(f"/proc/self/fd/{folder}/forks")
        one.recv(1, socket.MSG_PEEK)
        one.send(b'{"quit": true}')
    os.close(folder)
    assert cluster.wait(lambda: not alive(server) or None)


def test_a_mute_fork_server_is_replaced_and_what_waits_for_it_is_seen_to_wait(cluster: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainmaster.live.backends.local.SAY_S", 0.5)
    monkeypatch.setattr("trainmaster.live.backends.local.MUTE_S", 3.0)
    mute = fork_server(cluster)
    os.kill(mute, signal.SIGSTOP)
    before_s = time.monotonic()
    attempt = cluster.start(["sh", "-c", "exit 5"])
    assert time.monotonic() - before_s < 2  # nobody waits for it
    assert "no supervisor yet" in cluster.until(attempt, lambda one: bool(one.message)).message
    assert cluster.until(attempt).exit_code == 5
    assert not alive(mute)


def test_a_fork_server_of_another_version_is_replaced_and_its_attempts_run_on(cluster: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    running = cluster.start(["sh", "-c", "while ! test -e go; do sleep 0.01; done; exit 4"])
    cluster.running(running)
    old = fork_server(cluster)
    monkeypatch.setattr("trainmaster.live.backends.forks._version", lambda: "another")
    cluster.crash()
    assert cluster.run(["true"])[0].exit_code == 0
    assert fork_server(cluster) != old and not alive(old)
    (cluster.folder / "go").touch()
    assert cluster.until(running).exit_code == 4


def test_a_job_can_be_cancelled_while_the_fork_server_is_mute_and_never_starts(cluster: Harness) -> None:
    mute = fork_server(cluster)
    os.kill(mute, signal.SIGSTOP)
    attempt = cluster.start(["sh", "-c", "echo ran > ran"])
    cluster.backend.stop(attempt.job, 1, grace_s=5, reason="cancel")
    assert cluster.until(attempt).started_s is None
    os.kill(mute, signal.SIGCONT)
    assert cluster.run(["true"])[0].exit_code == 0  # it has come to the cancelled one before
    assert not (cluster.folder / "ran").exists()


def test_a_setup_that_hangs_is_seen(cluster: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainmaster.live.backends.local.SAY_S", 0.2)
    attempt = cluster.start(["true"], setup="sleep 60")
    assert "its setup runs" in cluster.until(attempt, lambda one: "setup" in one.message).message


def test_a_stop_that_a_hung_supervisor_does_not_hear_is_seen_and_then_forced(cluster: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainmaster.live.backends.local.FORCE_S", 4.0)
    attempt = cluster.start(["sh", "-c", FORKING])
    daemon = int(cluster.file("daemon"))
    cluster.running(attempt)
    os.kill(supervisor(cluster, attempt), signal.SIGSTOP)
    cluster.backend.stop(attempt.job, 1, grace_s=0, reason="cancel")
    late = cluster.until(attempt, lambda one: bool(one.message))
    assert late.seen is Seen.DRAINING and "past its deadline" in late.message
    assert cluster.until(attempt).seen is Seen.LOST
    assert not alive(daemon)


def test_a_machine_that_goes_down_stops_its_jobs_in_order(cluster: Harness) -> None:
    attempt = cluster.start(["sh", "-c", "trap 'exit 3' TERM; echo ready > ready; while :; do sleep 0.01; done"])
    cluster.file("ready")
    os.kill(supervisor(cluster, attempt), signal.SIGTERM)
    ended = cluster.until(attempt)
    assert (ended.exit_code, ended.asked_to_stop) == (3, True)


def test_everything_that_is_kept_is_for_its_owner_alone(cluster: Harness) -> None:
    cluster.until(cluster.start("echo x\n"))
    for folder, _, names in os.walk(cluster.backend.state):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            assert stat.S_IMODE(os.lstat(path).st_mode) & 0o077 == 0, path


def test_an_attempt_is_asked_for_once_however_long_the_fork_server_is_away(cluster: Harness) -> None:
    server = fork_server(cluster)
    forks = cluster.backend._forks
    os.kill(server, signal.SIGSTOP)
    with forks._lock:
        forks.pid = None
    for _ in range(1000):
        forks.ask(4711, 1)
    assert len(forks._unsent) <= 1
    forks.start_anew()
    assert cluster.run(["true"])[0].exit_code == 0


@pytest.mark.parametrize("line", [b"9" * 5000 + b" 1\n", b"\xff\n\n 1 \n", b"x" * 60_000])
def test_nonsense_told_to_the_controller_does_nothing(cluster: Harness, line: bytes) -> None:
    server = fork_server(cluster)
    fifo = os.open(f"{cluster.backend.state}/{files.WAKE}", os.O_WRONLY)
    os.write(fifo, line)
    os.close(fifo)
    os.kill(server, signal.SIGKILL)  # whoever listens starts another
    assert cluster.run(["true"])[0].exit_code == 0


@pytest.mark.parametrize(
    "packet",
    [b"[1, 2]", b"{", b'{"job": "../..", "attempt": 1}', b'{"job": 1}', b"[" * 4000, b"x" * 100_000, b'{"job": 99999, "attempt": 1}'],
)
def test_nonsense_told_to_the_fork_server_does_nothing(cluster: Harness, packet: bytes) -> None:
    serving = fork_server(cluster)
    folder = os.open(cluster.backend.state, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one, contextlib.suppress(OSError):
        one.connect(f"/proc/self/fd/{folder}/forks")
        json.loads(one.recv(4096))
        one.send(packet)
    os.close(folder)
    assert cluster.run(["true"])[0].exit_code == 0
    assert fork_server(cluster) == serving


@pytest.mark.parametrize(
    "line", ["{", '{"signal": "x"}', '{"signal": 1e99}', '{"stop": 4}', '{"stop": {}}', "[]", "7", '{"signal": 900}', "[" * 3000]
)
def test_nonsense_told_to_a_supervisor_does_nothing(cluster: Harness, line: str) -> None:
    attempt = cluster.start(["sh", "-c", "while ! test -e go; do sleep 0.01; done; exit 4"])
    cluster.running(attempt)
    assert files.poke(f"{files.attempt_folder(cluster.backend.state, attempt.job, 1)}/{files.COMMANDS}", line)
    (cluster.folder / "go").touch()
    assert cluster.until(attempt).exit_code == 4


def test_slots_default_to_the_cores_and_zero_has_no_accelerator(tmp_path: Path) -> None:
    (seen,) = LocalBackend(tmp_path).inventory()
    assert seen.name == socket.gethostname()
    if seen.node.type == "cpu":
        assert seen.node.gpus == seen.node.cpus == len(os.sched_getaffinity(0))
    (none,) = LocalBackend(tmp_path, slots=0).inventory()
    assert none.node.gpus == 0


class FakeNvml:
    """NVML as its documentation has it, for a machine with two GPUs, on the first of which someone computes."""

    class NVMLError(Exception):
        pass

    names = ("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB")

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.names[handle]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[int]:
        return [4711] if handle == 0 else []


def test_the_gpus_that_were_decided_are_the_ones_it_sees(cluster: Harness) -> None:
    node = cluster.backend.inventory()[0].name
    attempt = cluster.attempt(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], gpus=(2,))
    pinned = replace(attempt, shares=(NodeShare(node=node, gpus=2, devices=(1, 3)),))

    cluster.backend.start(pinned)

    cluster.until(pinned)
    assert cluster.log(pinned) == "1,3\n"


def test_gpus_are_found_by_nvml_and_those_that_others_use_are_given_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    cluster = Harness(lambda: LocalBackend(tmp_path / "state"), tmp_path)
    (seen,) = cluster.backend.inventory()
    assert (seen.node.gpus, seen.node.type, seen.others_gpus) == (2, "a100-80gb", 1.0)
    attempts = [cluster.start(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES; sleep 0.2"]) for _ in range(2)]
    assert [cluster.until(attempt).exit_code for attempt in attempts] == [0, 0]
    assert [cluster.log(attempt) for attempt in attempts] == ["1\n", "0\n"]
    cluster.backend.close()


def test_a_job_that_uses_more_memory_than_it_asked_for_is_killed_and_says_so(cluster: Harness) -> None:
    if "memory" not in cluster.backend._limits:
        pytest.skip("this machine lets nobody limit memory")
    hog = "python3 -c 'print(len(bytearray(400 << 20)))'"  # of a shell that is not killed itself

    small, large, plain = (cluster.attempt(["sh", "-c", f"{hog}; exit $?"]) for _ in range(3))
    small = replace(small, shares=(replace(small.shares[0], memory_gib=0.125),))
    large = replace(large, shares=(replace(large.shares[0], memory_gib=2.0),))
    for attempt in (small, large, plain):
        cluster.backend.start(attempt)

    killed = cluster.until(small)
    assert (killed.exit_code, killed.out_of_memory) == (137, True)
    assert killed.message == "out of memory: more than the 0.125 GiB that it asked for"
    assert [cluster.until(attempt).exit_code for attempt in (large, plain)] == [0, 0]
    assert not limit_folders(cluster)


def test_a_job_uses_no_more_cpus_than_it_asked_for(cluster: Harness) -> None:
    if "cpu" not in cluster.backend._limits:
        pytest.skip("this machine lets nobody limit CPUs")
    spin = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
    attempt = cluster.attempt([sys.executable, "-c", spin])
    attempt = replace(attempt, shares=(replace(attempt.shares[0], cpus=0.2),))

    cluster.backend.start(attempt)

    assert cluster.until(attempt).exit_code == 0
    assert float(cluster.log(attempt)) < 0.6  # 0.2 s, and what a period lets over
    assert not limit_folders(cluster)


def limit_folders(cluster: Harness) -> list[str]:
    places = {parent for _, parent in cluster.backend._limits.values()}
    return [name for place in places for name in os.listdir(place) if name.startswith("trainmaster-") and cgroup_of(cluster, name)]


def test_a_killed_supervisor_leaves_no_limits_behind(cluster: Harness) -> None:
    attempt = cluster.attempt(["sleep", "60"])
    attempt = replace(attempt, shares=(replace(attempt.shares[0], cpus=1.0, memory_gib=1.0),))
    cluster.backend.start(attempt)
    cluster.running(attempt)

    os.kill(supervisor(cluster, attempt), signal.SIGKILL)

    assert cluster.until(attempt).seen is Seen.LOST
    assert not limit_folders(cluster)


@pytest.mark.parametrize(("files", "limited"), [
    ({"cpu.max": "max", "memory.max": "max", "memory.swap.max": "max"}, {"cpu": ("v2", "parent"), "memory": ("v2", "parent")}),
    ({}, {}),
])  # fmt: skip
def test_limits_of_cgroup_v2_are_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files, limited) -> None:
    """On folders: this machine may have v1 alone."""
    parent = tmp_path / "parent"
    parent.mkdir()
    made, removed = os.mkdir, os.rmdir

    def rmdir(path: str) -> None:
        for file in Path(path).iterdir():
            file.unlink()
        removed(path)

    def mkdir(path: str, *mode: int) -> None:
        made(path, *mode)
        for name, text in files.items():
            Path(path, name).write_text(text)

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr(os, "rmdir", rmdir)
    monkeypatch.setattr(cgroups, "mounts", dict)
    found = limits.find("v2", str(parent))

    assert found == {name: (version, str(tmp_path / place)) for name, (version, place) in limited.items()}
    planned = limits.plan(found, "job", 2.5, 0.5)
    limits.make(planned)
    if limited:
        assert (parent / "job" / "cpu.max").read_text() == "250000 100000"
        assert [(parent / "job" / name).read_text() for name in ("memory.max", "memory.swap.max")] == [str(2**29), "0"]
        (parent / "job" / "memory.events").write_text("low 0\nmax 12\noom 1\noom_kill 1\n")
        assert limits.memory_exceeded(planned) == 0.5


def test_a_log_that_goes_on_growing_is_cut_again(tmp_path: Path) -> None:
    path, limit = tmp_path / "0.log", 1 << 20
    bound = Bound(str(path), limit)
    with path.open("ab", buffering=0) as log:
        for round in range(20):
            log.write(b"".join(b"%03d %011d\n" % (round, line) for line in range(20_000)))
            bound.look()
            assert path.stat().st_blocks * 512 <= limit + (64 << 10)

    written = path.read_bytes()
    assert len(written) == 20 * 20_000 * 16 and written.startswith(b"000 00000000000\n") and written.endswith(b"019 00000019999\n")
    assert written.count(b"passed its limit") == 1 and written[-(limit // 2) :].count(b"\0") == 0


def test_a_log_that_was_emptied_is_bounded_anew(tmp_path: Path) -> None:
    path, limit = tmp_path / "0.log", 1 << 20
    bound = Bound(str(path), limit)
    for _ in range(3):
        path.write_bytes(b"")  # `> /dev/stdout` in a job
        with path.open("ab", buffering=0) as log:
            for _ in range(8):
                log.write(bytes(range(1, 256)) * 4000)
                bound.look()
                assert path.stat().st_blocks * 512 <= limit + (64 << 10)


def test_a_log_past_its_limit_keeps_its_beginning_and_its_end_and_says_what_is_missing(tmp_path: Path) -> None:
    limit = 1 << 20
    cluster = Harness(lambda: LocalBackend(tmp_path / "state", slots=1, log_limit=limit), tmp_path)
    attempt = cluster.start([sys.executable, "-c", "for number in range(1_000_000): print(f'line {number:07}')"])  # 13 MB
    assert cluster.until(attempt).exit_code == 0

    path = cluster.backend.log_files(attempt.job, 1)["0"]
    with open_log(path) as file:
        blocks, offset = [], 0
        while (got := read(file, offset))[0]:
            blocks.append(got[0])
            offset = got[1]
    text = b"".join(blocks).decode()
    lines = text.splitlines()

    assert path.stat().st_size == 13_000_000 and path.stat().st_blocks * 512 <= limit + (64 << 10)
    assert len(text) <= limit + (64 << 10) and "\0" not in text
    assert lines[:2] == ["line 0000000", "line 0000001"] and lines[-1] == "line 0999999"
    assert sum("this log has passed its limit of 1 MiB" in line for line in lines) == 1
    cluster.backend.close()


def test_mounts_with_odd_names_are_read_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "42 27 0:39 / /tmp/nameless rw,relatime - tmpfs  rw\n"
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:7 master:2 - cgroup cgroup rw,cpu,cpuacct\n"
        "41 31 0:38 / /mnt/a\\040b rw,relatime - cgroup2  rw,nsdelegate\n"
        "43 31 0:38 / /mnt/second rw,relatime - cgroup2 cgroup2 rw\n"
    )
    monkeypatch.setattr(cgroups, "MOUNTS", str(mounts))
    found = cgroups.mounts()
    assert (found[""], found["cpu"], found["cpuacct"]) == ("/mnt/a b", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct")


def test_a_process_that_is_alone_in_its_cgroup_moves_into_a_leaf_to_hand_controllers_down(tmp_path: Path, monkeypatch) -> None:
    written: list[str] = []

    def put(path: str, text: str) -> None:
        if not (tmp_path / "trainmaster-up").exists():
            raise OSError(errno.EBUSY, "Device or resource busy")
        written.append(f"{os.path.basename(path)} {text}")

    monkeypatch.setattr(cgroups, "put", put)
    monkeypatch.setattr(cgroups, "enter", lambda folder: written.append(f"enter {os.path.basename(folder)}"))
    monkeypatch.setattr(cgroups, "mounts", dict)
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    limits.find("v2", str(tmp_path))
    assert written == []  # who else is there is not ours to move

    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    limits.find("v2", str(tmp_path))

    assert written == ["enter trainmaster-up", "cgroup.subtree_control +cpu", "cgroup.subtree_control +memory"]


def test_how_an_attempt_ended_is_written_on_a_full_disk_too(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() or os.system(f"mount -t tmpfs -o size=2m none {disk}"):
        pytest.skip("mounting a small tmpfs needs root")
    try:
        cluster = Harness(lambda: LocalBackend(disk / "state", slots=4), tmp_path)
        attempt = cluster.start(["sh", "-c", "while ! test -e go; do sleep 0.01; done; exit 7"])
        cluster.running(attempt)
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while filler.write(b"x" * 4096):
                pass
        (tmp_path / "go").touch()
        assert cluster.until(attempt).exit_code == 7
        stuck = cluster.start_or_error(["true"])
        assert "No space" in stuck
        os.unlink(disk / "filler")
        cluster.crash()
        assert cluster.until(attempt).exit_code == 7
        assert cluster.run(["true"])[0].exit_code == 0
        cluster.backend.close()
    finally:
        os.system(f"umount -l {disk}")


def test_a_running_job_can_be_cancelled_on_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() or os.system(f"mount -t tmpfs -o size=2m none {disk}"):
        pytest.skip("mounting a small tmpfs needs root")
    try:
        cluster = Harness(lambda: LocalBackend(disk / "state", slots=4), tmp_path)
        attempt = cluster.start(["sleep", "60"])
        cluster.running(attempt)
        with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
            while filler.write(b"x" * 4096):
                pass
        cluster.backend.stop(attempt.job, 1, grace_s=5, reason="cancel")
        assert cluster.until(attempt).exit_code == 128 + signal.SIGTERM
        cluster.backend.close()
    finally:
        os.system(f"umount -l {disk}")


# -- chance -----------------------------------------------------------------------------------------------------------------------------

WITNESS = """
import fcntl, os, sys, time
job, rank = os.environ["SLURM_JOB_ID"], os.environ["SLURM_PROCID"]
lock = os.open(f"lock-{job}-{rank}", os.O_RDWR | os.O_CREAT)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    os.write(os.open("broken", os.O_WRONLY | os.O_CREAT | os.O_APPEND), f"two attempts of {job} at once\\n".encode())
if os.fork() == 0 and os.fork() == 0:
    os.setsid()
    time.sleep(60)
time.sleep(float(sys.argv[1]))
os._exit(int(sys.argv[2]))
"""


def one_run_of_chance(cluster: Harness, seed: int, rounds: int) -> None:
    """Starts, stops, forgets, crashes of the controller, kills of supervisors and of the fork server, in an order that the seed gives.

    Throughout: no two processes of different attempts of a job hold its lock at once; each attempt comes to exactly one end, which never
    changes; and at the end no process is left.
    """
    chance = random.Random(seed)
    (cluster.folder / "witness.py").write_text(WITNESS)
    attempts: dict[tuple[int, int], Attempt] = {}
    ends: dict[tuple[int, int], tuple[Seen, int | None]] = {}

    def look() -> None:
        for one in cluster.backend.observe():
            key = (one.job, one.attempt)
            if one.ended_s is not None:
                assert ends.setdefault(key, (one.seen, one.exit_code)) == (one.seen, one.exit_code), key
            else:
                assert key not in ends, f"{key} ended and is there again"

    for _ in range(rounds):
        what = chance.random()
        unended = [key for key in attempts if key not in ends]
        if what < 0.45:
            job = chance.randint(1, 6)
            earlier = [key for key in attempts if key[0] == job]
            if all(key in ends for key in earlier):
                attempt = cluster.attempt(
                    ["python", "witness.py", f"{chance.random() * 0.3:.3f}", str(chance.randint(0, 3))],
                    job=job, attempt=len(earlier) + 1, gpus=(1, 1) if chance.random() < 0.3 else (1,),
                )  # fmt: skip
                attempts[job, attempt.attempt] = attempt
                cluster.backend.start(attempt)
        elif what < 0.6 and unended:
            cluster.backend.stop(*chance.choice(unended), grace_s=chance.choice([0, 0.1, 5]), reason=chance.choice(["cancel", "preempt"]))
        elif what < 0.7:
            cluster.crash()
        elif what < 0.78 and unended:
            key = chance.choice(unended)
            who = files.read_json(f"{files.attempt_folder(cluster.backend.state, *key)}/{files.SUPERVISOR}")
            if who is not None and who["pid"] and linux.birth(who["pid"]) == who["born"]:
                with contextlib.suppress(ProcessLookupError):  # it may end just then
                    os.kill(who["pid"], signal.SIGKILL)
        elif what < 0.82 and (serving := cluster.backend.report()["fork_server"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(serving, signal.SIGKILL)
        else:
            time.sleep(chance.random() * 0.05)
        look()
    for key in set(attempts) - set(ends):  # what was refused leaves no trace on disk, so that a crash forgets it
        cluster.until(attempts[key], lambda one: one.ended_s is not None)
    look()
    assert set(ends) == set(attempts)
    assert not (cluster.folder / "broken").exists()
    assert not [
        pid for job, number in attempts for pid in linux.marked(f"TRAINMASTER_CONTROL={cluster.backend.state}/jobs/{job}/{number}/control")
    ]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_killed_in_whatever_order_each_attempt_has_one_end_and_leaves_nothing(cluster: Harness, seed: int) -> None:
    one_run_of_chance(cluster, seed, rounds=60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_the_same_for_longer(cluster: Harness, seed: int) -> None:
    one_run_of_chance(cluster, seed, rounds=400)
