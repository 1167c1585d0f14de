"""`--snapshot` in site mode: a copy is made, kept and dropped by the user's own process, in that user's home, and read by nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from trainmaster.errors import BackendError, TrainmasterError
from trainmaster.live.backends.slurm_agent import SNAPSHOTS
from trainmaster.live.backends.slurm_users import SlurmAsUsers
from trainmaster.live.snapshots import SWEEP_S, UNUSED_S
from trainmaster.live.store import Copy

COPY_S, DROP_S = 180.0, 10.0
FRESH_S = UNUSED_S - 2 * SWEEP_S  # what is known of the copies in use: of a later one, none is old enough to be dropped yet
LONGEST = 4_096


class KeptByUsers:
    """What nobody uses any more goes when the user's next copy is made: no process is started for it."""

    by_users = True

    def __init__(self, backend: SlurmAsUsers, clock: Callable[[], float] = time.monotonic) -> None:
        self._backend, self._clock = backend, clock
        self._used: tuple[float, list[str]] | None = None  # when the last sweep was, and the places of the copies that are to be kept

    def copy(self, source: str, name: str, user: str) -> str:
        folder = f"{self._backend.folder_of(user)}/{SNAPSHOTS}/"
        known_s, used = self._used or (0.0, [])
        kept = [place.removeprefix(folder).partition("/")[0] for place in used if place.startswith(folder)]
        names = name, *dict.fromkeys(kept)
        sweep = self._used is not None and self._clock() < known_s + FRESH_S  # the store may have been away since
        place = self._backend.ask(user, COPY_S, verb="copy", source=source, names=names, sweep=sweep).place
        if f"{place}/".startswith(f"{folder}{name}/") and len(place) <= LONGEST and "\0" not in place and "/../" not in f"{place}/":
            return place
        raise BackendError(f"the process of {user} says what cannot be understood of a copy")

    def drop(self, names: Sequence[str], user: str) -> None:
        if names:
            with suppress(TrainmasterError):  # its next copy sees to it
                self._backend.ask(user, DROP_S, verb="drop", names=tuple(names))

    def sweep(self, used: Sequence[Copy], now_s: float, retention_s: float) -> list[str]:
        self._used = self._clock(), [copy.place for copy in used if copy.active or copy.last_s + retention_s > now_s]
        return []
