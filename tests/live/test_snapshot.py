"""A snapshot holds what git knows, as it is on disk, and nothing else."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from live.test_controller import site, spec
from trainmaster.errors import InputError
from trainmaster.live.node import snapshot as bounds
from trainmaster.live.node.snapshot import snapshot
from trainmaster.live.plane import Plane
from trainmaster.live.snapshots import KeptHere, Snapshots

__all__ = ["site"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "src").mkdir(parents=True)
    for name, text in {"train.py": "1", "src/model.py": "m", "big.bin": "data", ".gitignore": "*.bin\n", "gone.py": "x"}.items():
        (root / name).write_text(text)
    for command in (["init", "-q"], ["add", "train.py", "src", ".gitignore", "gone.py"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    (root / "gone.py").unlink()
    return root


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_tracked_and_new_files_are_copied_as_they_are_and_ignored_ones_are_not(repository: Path, tmp_path: Path) -> None:
    (repository / "train.py").write_text("2")
    (repository / "new file.py").write_text("n")
    place = snapshot(repository, tmp_path / "copy")
    assert place == tmp_path / "copy"
    assert contents(place) == {"train.py": "2", "src/model.py": "m", ".gitignore": "*.bin\n", "new file.py": "n"}
    (repository / "train.py").write_text("3")
    assert contents(place)["train.py"] == "2"


def test_a_folder_inside_stands_at_its_place_in_a_copy_of_the_whole(repository: Path, tmp_path: Path) -> None:
    place = snapshot(repository / "src", tmp_path / "copy")
    assert place == tmp_path / "copy/src"
    assert (tmp_path / "copy/train.py").exists()


def test_modes_and_links_inside_are_kept(repository: Path, tmp_path: Path) -> None:
    (repository / "run.sh").write_text("#!/bin/sh\n")
    (repository / "run.sh").chmod(0o755)
    (repository / "link.py").symlink_to("train.py")
    place = snapshot(repository, tmp_path / "copy")
    assert os.access(place / "run.sh", os.X_OK)
    assert os.readlink(place / "link.py") == "train.py"


def test_what_a_repository_has_git_run_reads_nothing_of_the_input_of_who_copies_it(repository: Path, tmp_path: Path) -> None:
    """In site mode that is where the controller's requests come from."""
    monitor = tmp_path / "monitor"
    monitor.write_text(f"#!/bin/sh\ncat > {tmp_path}/read\nprintf 'token\\0'\n")
    monitor.chmod(0o755)
    subprocess.run(["git", "config", "core.fsmonitor", monitor], cwd=repository, check=True)
    before, (end, begin) = os.dup(0), os.pipe()
    os.write(begin, b"a request")
    os.close(begin)
    os.dup2(end, 0)
    try:
        snapshot(repository, tmp_path / "copy")
    finally:
        os.dup2(before, 0)
    assert (tmp_path / "read").read_bytes() == b""
    assert os.read(end, 100) == b"a request"
    os.close(end)
    os.close(before)


def test_a_link_that_leads_out_is_refused_and_nothing_stays(repository: Path, tmp_path: Path) -> None:
    (repository / "out").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="leads out of the repository"):
        snapshot(repository, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(("limit", "value", "said"), [("MAX_FILES", 2, "more than the 2"), ("MAX_BYTES", 3, "MiB")])
def test_a_snapshot_has_a_bound(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, said: str
) -> None:
    monkeypatch.setattr(bounds, limit, value)
    with pytest.raises(InputError, match=said):
        snapshot(repository, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_folder_that_is_no_repository_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a git repository"):
        snapshot(tmp_path, tmp_path / "copy")


def test_a_copy_goes_when_the_last_of_its_jobs_has_ended_so_long_ago(site, repository: Path, tmp_path: Path) -> None:
    s, kept = site(1), KeptHere(tmp_path / "snapshots")
    snapshots = Snapshots(kept)
    plane = Plane(s.controller, snapshots=snapshots)
    answer = plane.submit([spec(10, snapshot=str(repository)), spec(20, snapshot=str(repository))], "ada")
    while not answer.done():
        s.turn()
        time.sleep(0.01)
    orphan = snapshots.of([spec(1, snapshot=str(repository))], "ada")[1][0]  # of a request that was refused, say
    now_s, week_s = time.time(), 7 * 86_400.0

    s.until(15)
    assert kept.sweep(s.controller.store.copies(), now_s, 0.0) == []  # one of its jobs runs; the other copy is young
    s.until(40)
    copies = {Path(copy.place).relative_to(kept.folder).parts[0] for copy in s.controller.store.copies()}
    ended_s = max(copy.last_s for copy in s.controller.store.copies())
    assert kept.sweep(s.controller.store.copies(), ended_s + week_s - 1, week_s) == []
    assert set(kept.sweep(s.controller.store.copies(), ended_s + week_s, week_s)) == copies
    assert kept.sweep(s.controller.store.copies(), now_s + 2 * 3_600, week_s) == [orphan]
    assert list(kept.folder.iterdir()) == []


def test_where_users_own_processes_copy_nobody_waits_for_another_users() -> None:
    """Which may be stopped, and then is waited for as long as git may take."""
    go = threading.Event()

    class Stopped(KeptHere):
        by_users = True

        def copy(self, source: str, name: str, user: str) -> str:
            assert user == "ada" or go.wait(30)
            return f"/{user}"

    snapshots = Snapshots(Stopped(Path("/none")))
    ones = [spec(1, snapshot="/work")]
    waiting = [snapshots.pool("eve").submit(snapshots.of, ones, "eve") for _ in range(5)]
    try:
        assert snapshots.pool("ada").submit(snapshots.of, ones, "ada").result(10)[0][0].snapshot == "/ada"
        assert not any(one.done() for one in waiting)
    finally:
        go.set()
    assert [one.result(10)[0][0].snapshot for one in waiting] == ["/eve"] * 5
