"""`--snapshot`: the copies of repositories that jobs run in, made when they are submitted."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from trainmaster.errors import TrainmasterError
from trainmaster.live.node.snapshot import snapshot
from trainmaster.live.spec import JobSpec
from trainmaster.live.store import Copy

AT_ONCE = 2  # copies; who asks for more waits
SWEEP_S = 600.0
UNUSED_S = 3_600.0  # a copy so old that no job runs in was made for a request that was refused, or never finished

log = logging.getLogger(__name__)


class Snapshots:
    """`folder` is where the copies are kept, one a request and folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pool = ThreadPoolExecutor(AT_ONCE, "snapshot")  # git and a disk take their time: no request waits for another's

    def of(self, specs: Sequence[JobSpec]) -> tuple[list[JobSpec], list[Path]]:
        """The specs with their copies in place of the folders to be copied; the copies. All or none: InputError says what is in the way."""
        places: dict[str, str] = {}
        made: list[Path] = []
        try:
            for source in dict.fromkeys(spec.snapshot for spec in specs if spec.snapshot is not None):
                made.append(self.folder / uuid4().hex)
                places[source] = str(snapshot(Path(source), made[-1]))
        except BaseException:
            self.drop(made)
            raise
        return [spec if spec.snapshot is None else spec.model_copy(update={"snapshot": places[spec.snapshot]}) for spec in specs], made

    def sweep(self, used: Sequence[Copy], now_s: float, retention_s: float) -> list[Path]:
        """Drop the copies whose last job ended so long ago, and those that no job was ever taken in with."""
        dropped = []
        for copy in self.folder.iterdir() if self.folder.is_dir() else ():
            of_it = [each for each in used if copy == Path(each.place) or copy in Path(each.place).parents]
            ended_s = max((each.last_s for each in of_it), default=copy.stat().st_mtime + UNUSED_S - retention_s)
            if not any(each.active for each in of_it) and ended_s + retention_s <= now_s:
                dropped.append(copy)
        self.drop(dropped)
        return dropped

    def keep_swept(
        self, used: Callable[[], Sequence[Copy]], now: Callable[[], float], retention_s: Callable[[], float]
    ) -> Callable[[], None]:
        """Now and then, in a thread; returns what stops it."""
        stop = threading.Event()

        def sweep() -> None:
            while not stop.wait(SWEEP_S):
                try:
                    self.sweep(used(), now(), retention_s())
                except (TrainmasterError, OSError) as problem:  # the store or the disk is away: later, then
                    log.warning("snapshots are not swept: %s", problem)

        threading.Thread(target=sweep, name="snapshots", daemon=True).start()
        return stop.set

    def drop(self, made: Sequence[Path]) -> None:
        for copy in made:
            shutil.rmtree(copy, ignore_errors=True)
