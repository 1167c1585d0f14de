"""The small Slurm cluster with accounting: slurmdbd over a MariaDB of its own, below the cluster's folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from live.scripts import script

NEEDED = ("slurmdbd", "mariadbd", "mariadb-install-db", "mariadb")
WITHOUT = "AccountingStorageType=accounting_storage/none"
WITH = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={dir}/munge.socket
AccountingStorageTRES=gres/gpu"""
DBD = """AuthType=auth/munge
AuthInfo=socket={dir}/munge.socket
DbdHost=localhost
DbdPort={port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=of-a-test
StorageLoc=slurm_acct_db
LogFile={dir}/slurmdbd.log
PidFile={dir}/slurmdbd.pid
"""
USER = (
    "CREATE DATABASE slurm_acct_db; CREATE USER slurm@localhost IDENTIFIED BY 'of-a-test'; "
    "GRANT ALL ON slurm_acct_db.* TO slurm@localhost"
)


def missing() -> list[str]:
    return [name for name in NEEDED if shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin") is None]


def accounted(folder: Path) -> Any:
    """Two nodes of four GPUs; `start` and `stop` as of any small cluster."""
    module = script("slurm_cluster")

    class Accounted(module.SmallCluster):  # type: ignore[misc, name-defined]
        database: subprocess.Popen[bytes] | None = None

        def start_controller(self) -> None:
            if self.database is None:
                self._start_accounting()
            super().start_controller()

        def stop(self) -> None:
            super().stop()
            if self.database is not None:
                self.database.terminate()
                self.database.wait(60)
                shutil.rmtree(self.folder, ignore_errors=True)

        def _start_accounting(self) -> None:
            at, socket, (port,) = self.folder, self.folder / "sql" / "socket", module._free_ports(1)
            self.conf.write_text(self.conf.read_text().replace(WITHOUT, WITH.format(dir=at, port=port)))
            (at / "slurmdbd.conf").write_text(DBD.format(dir=at, port=port))
            (at / "slurmdbd.conf").chmod(0o600)
            self.env["MYSQL_UNIX_PORT"] = str(socket)
            self.run("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={at}/sql", within_s=120)
            self.database = subprocess.Popen(
                ["mariadbd", "--no-defaults", "--user=root", f"--datadir={at}/sql", "--skip-networking", f"--socket={socket}",
                 f"--pid-file={at}/sql/pid", "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"],
                env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            assert self.wait(socket.exists, 120)
            self.run("mariadb", "--no-defaults", f"--socket={socket}", "--user=root", f"--execute={USER}")
            self.run("slurmdbd")
            assert self.wait(lambda: "trainmaster-try" in self.run("sacctmgr", "-i", "add", "cluster", "trainmaster-try", fails=True), 120)

    return Accounted(folder, nodes=2, gpus=4)
