"""`--snapshot`: the copies of repositories that jobs run in, made when they are submitted."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from trainmaster.errors import TrainmasterError
from trainmaster.live.node.snapshot import snapshot
from trainmaster.live.spec import JobSpec
from trainmaster.live.store import Copy

AT_ONCE = 2  # copies by one process; who asks for more waits
SWEEP_S = 600.0
UNUSED_S = 3_600.0  # a copy so old that no job runs in was made for a request that was refused, or never finished

log = logging.getLogger(__name__)


class Keeper(Protocol):
    """Where the copies are kept, one a request and folder, each under a name of its own."""

    by_users: bool  # each user's are made by a process of that user, which may take its time: nobody else waits for it

    def copy(self, source: str, name: str, user: str) -> str:
        """The place in it that `source` is a copy of. InputError says what is in the way; then there is none."""

    def drop(self, names: Sequence[str], user: str) -> None: ...

    def sweep(self, used: Sequence[Copy], now_s: float, retention_s: float) -> list[str]:
        """Drop the copies whose last job ended so long ago, and those that no job was ever taken in with; the names of the dropped."""


class Snapshots:
    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self._pools: dict[str, ThreadPoolExecutor] = {}

    def pool(self, user: str) -> ThreadPoolExecutor:
        """Git and a disk take their time: no other request waits for it."""
        return self._pools.setdefault(user if self.keeper.by_users else "", ThreadPoolExecutor(AT_ONCE, "snapshot"))

    def of(self, specs: Sequence[JobSpec], user: str) -> tuple[list[JobSpec], list[str]]:
        """The specs with their copies in place of the folders to be copied; the copies' names. All or none, as InputError says."""
        places: dict[str, str] = {}
        made: list[str] = []
        try:
            for source in dict.fromkeys(spec.snapshot for spec in specs if spec.snapshot is not None):
                made.append(uuid4().hex)
                places[source] = self.keeper.copy(source, made[-1], user)
        except BaseException:
            self.keeper.drop(made, user)
            raise
        return [spec if spec.snapshot is None else spec.model_copy(update={"snapshot": places[spec.snapshot]}) for spec in specs], made

    def keep_swept(
        self, used: Callable[[], Sequence[Copy]], now: Callable[[], float], retention_s: Callable[[], float]
    ) -> Callable[[], None]:
        """Now and then, in a thread; returns what stops it."""
        stop = threading.Event()

        def sweep() -> None:
            while not stop.wait(SWEEP_S):
                try:
                    self.keeper.sweep(used(), now(), retention_s())
                except (TrainmasterError, OSError) as problem:  # the store or the disk is away: later, then
                    log.warning("snapshots are not swept: %s", problem)

        threading.Thread(target=sweep, name="snapshots", daemon=True).start()
        return stop.set


class KeptHere:
    """By this process, in a folder of its account's."""

    by_users = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def copy(self, source: str, name: str, user: str) -> str:
        return str(snapshot(Path(source), self.folder / name))

    def drop(self, names: Sequence[str], user: str) -> None:
        self._remove(names)

    def sweep(self, used: Sequence[Copy], now_s: float, retention_s: float) -> list[str]:
        dropped = []
        for copy in self.folder.iterdir() if self.folder.is_dir() else ():
            of_it = [each for each in used if copy == Path(each.place) or copy in Path(each.place).parents]
            ended_s = max((each.last_s for each in of_it), default=copy.stat().st_mtime + UNUSED_S - retention_s)
            if not any(each.active for each in of_it) and ended_s + retention_s <= now_s:
                dropped.append(copy.name)
        self._remove(dropped)
        return dropped

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            shutil.rmtree(self.folder / name, ignore_errors=True)
