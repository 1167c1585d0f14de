"""What all requests share: whom they are answered from, who may ask, the bounds and what counts against them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from fastapi import Request
from starlette.types import Scope

from trainmaster.errors import TrainmasterError
from trainmaster.live.control import ControlPlane
from trainmaster.live.http.auth import Authenticator
from trainmaster.live.http.limits import Buckets
from trainmaster.live.http.sessions import Sessions
from trainmaster.live.http.settings import Settings
from trainmaster.live.http.watch import Watch


class Service:
    """The event loop's, but for what is said to be called from threads."""

    def __init__(self, control: ControlPlane, auth: Authenticator, settings: Settings) -> None:
        self.control, self.auth, self.settings = control, auth, settings
        self.sessions, self.watch = Sessions(auth.now), Watch(control)
        self.tokens = Buckets(settings.token_rate, settings.token_burst, time.monotonic)
        self.addresses = Buckets(settings.address_rate, settings.address_burst, time.monotonic)
        self.strangers = Buckets(settings.stranger_rate, settings.stranger_burst, time.monotonic)
        self.streams, self.whatifs = Counter[str](), Counter[str]()  # going on now, by user
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """Who follows or waits is let go."""
        self.stopping.set()
        self.watch.stop()


def check_place(going: Counter[str], most: int, user: str, what: str) -> None:
    """Refuse what would be one too many: of all, or of one user, to whom half may go."""
    if going.total() >= most:
        raise TrainmasterError(f"{going.total()} {what}; try again when one has ended")
    if going[user] >= max(most // 2, 1):
        raise TrainmasterError(f"{going[user]} {what} for {user}; try again when one has ended")


def service_at(scope: Scope) -> Service:
    service: Service = scope["app"].state.service
    return service


def service_of(request: Request) -> Service:
    return service_at(request.scope)
