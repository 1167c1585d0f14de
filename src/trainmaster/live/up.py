"""`trainmaster up`, put together: the store, the backend, the controller, the API and its pages; in the foreground until interrupted."""

from __future__ import annotations

import gc
import getpass
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from trainmaster.engine.core import Setup
from trainmaster.engine.late import compile_all
from trainmaster.engine.policy_files import READERS
from trainmaster.errors import InputError
from trainmaster.live.backends.base import Backend
from trainmaster.live.clock import WallClock
from trainmaster.live.controller import Controller
from trainmaster.live.http import settings as http
from trainmaster.live.http.app import make_app
from trainmaster.live.http.auth import Authenticator
from trainmaster.live.http.server import Server, Tls, announced, is_loopback
from trainmaster.live.plane import Plane
from trainmaster.live.policies import chosen
from trainmaster.live.settings import Settings, differences, reread
from trainmaster.live.snapshots import Keeper, KeptHere, Snapshots
from trainmaster.live.store import Store

RELOADED = ("queues", "node_queues", "rules")  # what a running controller takes up; the rest asks for a new start


def run_up(settings: Settings, say: Callable[[str], None]) -> int:
    """Returns when interrupted; jobs run on."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with ExitStack() as stack:
        patience = threading.Timer(3.0, say, ["compiling the engine, once on this machine: about half a minute"])
        patience.start()
        compile_all()  # a decision does not wait for it later
        patience.cancel()
        controller, _, url = begin(settings, stack)
        gc.freeze()  # modules and the jobs of the store: to search them for garbage stops every thread for 0.15 s
        say(f"controller of {controller.backend.name}, policy {controller.scheduling.policy.name}, at {url}")
        for line in advice(settings, controller):
            say(line)
        while not stop.wait(0.5):
            if controller.failure is not None:
                say(f"the controller has stopped: {controller.failure}")
                return 1
        say("stopping; jobs run on, and are taken up again by the next `trainmaster up`")
    return 0


def begin(settings: Settings, stack: ExitStack) -> tuple[Controller, Server, str]:
    """Everything running; closed with the stack, in the reverse order."""
    clock = WallClock()
    settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    tls = Tls(settings.tls_certificate, settings.tls_key) if settings.tls_certificate and settings.tls_key else None
    chosen(settings.policy, settings.policy_settings, READERS)  # refused before anything is opened
    url = settings.store or f"sqlite:///{settings.state / 'store.db'}"
    store = Store.open(url, owner=f"{socket.gethostname()}:{os.getpid()}", now=clock)
    stack.callback(store.close)
    policy, policy_rules = chosen(*policy_of(settings, store), READERS)
    backend = backend_of(settings)
    controller = Controller(
        store, backend, policy, policy_rules=policy_rules, rules=settings.rules, queues=settings.queues, node_queues=settings.node_queues,
        setup=Setup(placement=settings.placement, round_s=settings.round_s), now=clock,
    )  # fmt: skip
    current = [settings]

    def reload(running: Controller) -> list[str]:
        fresh = reread(current[0])
        lines = [line + ("" if line.split(":")[0].split(" ")[0] in RELOADED else " (from the next start on)")
                 for line in differences(current[0], fresh)]  # fmt: skip
        running.take_up(fresh.rules, fresh.queues, fresh.node_queues)
        current[0] = fresh
        return lines

    snapshots = Snapshots(keeper_of(settings, backend))
    stack.callback(snapshots.keep_swept(store.copies, clock, lambda: controller.rules.snapshot_retention_s))
    plane = Plane(controller, reload=reload if settings.config is not None else None, snapshots=snapshots)
    auth = Authenticator(store, clock)
    loopback = is_loopback(settings.host)
    app = make_app(plane, auth, http.Settings(open_queue=settings.open_queue, loopback=loopback, secure=tls is not None))
    server = Server(app, host=settings.host, port=settings.port, tls=tls, insecure=settings.insecure)
    controller.start()
    stack.callback(controller.stop)
    server.start()
    stack.callback(server.stop)
    stack.enter_context(announced(settings.state, server.url, auth, getpass.getuser(), tls))
    return controller, server, server.url


def policy_of(settings: Settings, store: Store) -> tuple[str, Sequence[str]]:
    """What was said now; else what `trainmaster policy` said last, which a restart does not undo."""
    kept = store.meta("policy")
    said = "policy" in settings.flags or settings.policy != Settings().policy or settings.policy_settings
    return (settings.policy, settings.policy_settings) if said or kept is None else (kept["name"], kept["settings"])


def backend_of(settings: Settings) -> Backend:
    if settings.as_user is not None and settings.backend != "slurm":
        raise InputError("--as-user goes with --backend slurm: the others run every job as the user who started them")
    return {"local": _local, "slurm": _slurm, "ray": _ray}[settings.backend](settings)


def keeper_of(settings: Settings, backend: Backend) -> Keeper:
    if settings.as_user is None:
        return KeptHere((settings.shared or settings.state).absolute() / "snapshots")
    from trainmaster.live.backends.slurm_user_copies import KeptByUsers
    from trainmaster.live.backends.slurm_users import SlurmAsUsers

    assert isinstance(backend, SlurmAsUsers), "--as-user goes with no other"
    return KeptByUsers(backend)


def _local(settings: Settings) -> Backend:
    if settings.shadow or settings.address or settings.cluster or settings.shared:
        raise InputError("--shadow, --address, --shared and --cluster are for other backends; the local one runs jobs on this machine")
    from trainmaster.live.backends.local import LocalBackend

    return LocalBackend(settings.state, slots=settings.slots, log_limit=settings.log_limit)


def _slurm(settings: Settings) -> Backend:
    if settings.address or settings.slots is not None or settings.cluster or settings.shared:
        raise InputError("--address, --slots, --shared and --cluster are not for --backend slurm: SLURM_CONF says which cluster")
    if settings.as_user is not None:
        from trainmaster.live.backends.slurm_users import SlurmAsUsers

        return SlurmAsUsers(settings.state, settings.as_user.absolute(), log_limit=settings.log_limit)
    from trainmaster.live.backends.slurm import SlurmBackend

    return SlurmBackend(settings.state, log_limit=settings.log_limit)


def _ray(settings: Settings) -> Backend:
    if settings.shadow or settings.slots is not None or settings.cluster:
        raise InputError("--shadow, --slots and --cluster are not for --backend ray: Ray says what its nodes have")
    if settings.address is None:
        raise InputError("--backend ray needs --address HOST:PORT, that of Ray's head")
    from trainmaster.live.backends.ray import RayBackend

    return RayBackend(settings.state, settings.address, shared=settings.shared, log_limit=settings.log_limit)


def advice(settings: Settings, controller: Controller) -> list[str]:
    nodes = controller.nodes
    gpus = sum(seen.node.gpus for seen in nodes)
    kinds = ", ".join(sorted({seen.node.type or "untyped" for seen in nodes}))
    return [
        f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}, {gpus} accelerators ({kinds}); state in {settings.state}",
        f"log in: the token is in {settings.state / 'token'}; verbs on this machine find it by themselves",
        f"all jobs run as {getpass.getuser()}: tokens say who may ask, they do not keep jobs' processes from one another"
        if settings.as_user is None
        else f"each job runs as the Unix account of its user, by sudo {settings.as_user}; who has an admin's token can be any of them",
    ]
