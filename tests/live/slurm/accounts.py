"""A site for the tests of site mode: a real Slurm, temporary accounts, and one rule of sudo between them.

Needs root, sudo and Slurm, and an interpreter that other accounts may run; leaves no account and no rule behind.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from live.scripts import script

SOURCE = Path(__file__).parents[3] / "src"
PROGRAM = """#!{python} -I
import sys
sys.path[:0] = {paths!r}
from {module} import main
{call}
"""
AS_CONTROLLER = """#!/bin/sh
exec setpriv --reuid={user} --regid={user} --init-groups {sudo} "$@"
"""


class Site:
    """A Slurm of one node of four GPUs; accounts of a controller, of two users it may run as, and of one it may not."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tm-site-"))  # others must pass it: pytest's own is root's alone
        self.folder.chmod(0o755)
        tag = secrets.token_hex(2)
        self.ada, self.eve, self.other, self.controller = (f"tm{tag}{name}" for name in ("ada", "eve", "oth", "ctl"))
        self.group = f"tm{tag}users"
        self.rule = Path(f"/etc/sudoers.d/trainmaster-test-{tag}")
        self.program, self.command = self.folder / "trainmaster-as-user", self.folder / "trainmaster"
        self.cluster = script("slurm_cluster").SmallCluster(self.folder / "slurm", nodes=1, gpus=4, prefix=f"site{tag}x")
        self.path = os.environ["PATH"]

    def begin(self) -> None:
        subprocess.run(["groupadd", self.group], check=True, capture_output=True)
        for user in (self.ada, self.eve, self.other, self.controller):
            home = ["--create-home", "--home-dir", str(self.folder / user), "--shell", "/bin/sh"]
            groups = ["--groups", self.group] if user in (self.ada, self.eve) else []
            subprocess.run(["useradd", "--user-group", *groups, *home, user], check=True, capture_output=True)
        paths = [str(SOURCE), sysconfig.get_path("purelib")]
        self.python = self._python(paths)
        for program, module, call in (
            (self.program, "trainmaster.live.backends.slurm_agent", "main()"),
            (self.command, "trainmaster.cli.main", "sys.exit(main(sys.argv[1:]))"),
        ):
            program.write_text(PROGRAM.format(python=self.python, paths=paths, module=module, call=call))
            program.chmod(0o755)
        draft = self.folder / "rule"
        draft.write_text(f'{self.controller} ALL=(%{self.group}) NOPASSWD: {self.program} ""\n')
        subprocess.run(["visudo", "-c", "-q", "-f", str(draft)], check=True)
        draft.chmod(0o440)
        shutil.copy(draft, self.rule)
        as_controller = self.folder / "bin" / "sudo"  # this process is root, which needs no rule
        as_controller.parent.mkdir()
        as_controller.write_text(AS_CONTROLLER.format(user=self.controller, sudo=shutil.which("sudo")))
        as_controller.chmod(0o755)
        self.cluster.start()
        os.environ |= {"SLURM_CONF": str(self.cluster.conf), "PATH": f"{as_controller.parent}:{self.path}"}

    def _python(self, paths: list[str]) -> str:
        """One that other accounts may run, with what the source needs."""
        code = f"import sys; sys.path[:0] = {paths!r}; import trainmaster.live.backends.slurm_agent"
        for python in (sys.executable, "/usr/bin/python3"):
            as_user = ["setpriv", f"--reuid={self.ada}", f"--regid={self.ada}", "--clear-groups", "env", python, "-I", "-c", code]
            if not subprocess.run(as_user, capture_output=True, cwd="/").returncode:
                return python
        pytest.skip("no interpreter here that accounts other than root may run with this source and its packages")

    def as_(self, user: str, *argv: str | Path, **env: str) -> list[str | Path]:
        """What runs this as one of the accounts, in its home and with nothing of this process's environment."""
        home = self.folder / user
        told = {"HOME": str(home), "USER": user, "PATH": self.path, "SLURM_CONF": str(self.cluster.conf), **env}
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return [*become, "env", "-i", "-C", home, *(f"{name}={value}" for name, value in told.items()), *argv]

    def end(self) -> None:
        self.rule.unlink(missing_ok=True)
        if self.cluster.conf.exists():
            self.cluster.stop()
        for user in (self.ada, self.eve, self.other, self.controller):
            subprocess.run(["userdel", "--force", user], capture_output=True)
        subprocess.run(["groupdel", self.group], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.environ["PATH"] = self.path
