"""`--snapshot` in site mode: a copy is made, kept and dropped by the user's own process, in that user's home, and read by nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from trainmaster.errors import BackendError, TrainmasterError
from trainmaster.live.backends.slurm_agent import SNAPSHOTS
from trainmaster.live.backends.slurm_users import SlurmAsUsers
from trainmaster.live.store import Copy

COPY_S, DROP_S = 180.0, 10.0
LONGEST = 4_096


class KeptByUsers:
    """What nobody uses any more goes when the user's next copy is made: no process is started for it."""

    def __init__(self, backend: SlurmAsUsers) -> None:
        self._backend = backend
        self._used: list[str] | None = None  # places of copies that are to be kept, as of the last sweep; None: not known yet

    def copy(self, source: str, name: str, user: str) -> str:
        folder = f"{self._backend.folder_of(user)}/{SNAPSHOTS}/"
        kept = [place.removeprefix(folder).partition("/")[0] for place in self._used or () if place.startswith(folder)]
        names, sweep = (name, *dict.fromkeys(kept)), self._used is not None
        place = self._backend.ask(user, COPY_S, verb="copy", source=source, names=names, sweep=sweep).place
        if f"{place}/".startswith(f"{folder}{name}/") and len(place) <= LONGEST and "\0" not in place and "/../" not in f"{place}/":
            return place
        raise BackendError(f"the process of {user} says what cannot be understood of a copy")

    def drop(self, names: Sequence[str], user: str) -> None:
        if names:
            with suppress(TrainmasterError):  # its next copy sees to it
                self._backend.ask(user, DROP_S, verb="drop", names=tuple(names))

    def sweep(self, used: Sequence[Copy], now_s: float, retention_s: float) -> list[str]:
        self._used = [copy.place for copy in used if copy.active or copy.last_s + retention_s > now_s]
        return []
