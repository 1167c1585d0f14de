"""`--snapshot`: the copies of repositories that jobs run in, made when they are submitted."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

from trainmaster.live.node.snapshot import snapshot
from trainmaster.live.spec import JobSpec

AT_ONCE = 2  # copies; who asks for more waits


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

    def drop(self, made: Sequence[Path]) -> None:
        for copy in made:
            shutil.rmtree(copy, ignore_errors=True)
