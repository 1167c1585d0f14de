"""What all requests share: whom they are answered from, who may ask, the bounds and what counts against them."""

from __future__ import annotations

import asyncio
import time

from fastapi import Request
from starlette.types import Scope

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
        self.streams = self.whatifs = 0  # going on now
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """Who follows or waits is let go."""
        self.stopping.set()
        self.watch.stop()


def service_at(scope: Scope) -> Service:
    service: Service = scope["app"].state.service
    return service


def service_of(request: Request) -> Service:
    return service_at(request.scope)
