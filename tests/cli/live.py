"""A controller without a cluster: the real API on a real socket, over the control plane in memory, found by its state folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from live.fake_control import FakeControl
from live.http.fakes import FakeTokens
from trainmaster.live.http.app import make_app
from trainmaster.live.http.auth import Authenticator, Role
from trainmaster.live.http.server import Server, announced


class Cluster:
    """`control` is what the test moves; STATE/address and STATE/token are there, of the admin `ana`."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.control = FakeControl(folder / "logs")
        self.auth = Authenticator(FakeTokens(), lambda: self.control.now_s)
        self.server = Server(make_app(self.control, self.auth))

    def token(self, user: str, role: Role = Role.USER) -> str:
        return self.auth.issue(user, role, "test")[1]

    def again(self) -> None:
        """After `server.stop()`: another one at the same address, as when `up` is started again."""
        self.server = Server(make_app(self.control, self.auth), port=int(self.url.rpartition(":")[2]))
        self.server.start()

    @property
    def url(self) -> str:
        return self.server.url


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    cluster.server.start()
    try:
        with announced(cluster.state, cluster.url, cluster.auth, "ana"):
            yield cluster
    finally:
        cluster.server.stop()
