"""Blows of every kind, drawn from a seed: to ranks, supervisors, the fork server, the controller and its database."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from live.faults.real import Cluster, People, work_through
from live.postgres import Postgres
from trainmaster.live.client import Client
from trainmaster.live.node.linux import children

AWAY_S = (0.5, 6.0)  # the store waits 3 s for a lock
KILLED = 128 + signal.SIGKILL


class Blows:
    """Each is a method; `strike` draws one. `postgres`: the server of the store, else it is in SQLite."""

    KINDS = ("rank", "supervisor", "fork_server", "controller", "database")

    def __init__(self, cluster: Cluster, postgres: Postgres | None) -> None:
        self.cluster, self.postgres, self.struck = cluster, postgres, Counter[str]()

    def strike(self, rng: random.Random, up_s: float) -> None:
        time.sleep(rng.uniform(0.0, 2.0))
        kind = rng.choice(self.KINDS)
        getattr(self, kind)(rng, up_s)
        self.struck[kind] += 1

    def rank(self, rng: random.Random, up_s: float) -> None:
        supervisor = self._some_supervisor(rng)
        ranks = children(supervisor) if supervisor is not None else []
        if ranks:
            self._kill(rng.choice(ranks))

    def supervisor(self, rng: random.Random, up_s: float) -> None:
        supervisor = self._some_supervisor(rng)
        if supervisor is not None:
            self._kill(supervisor)

    def fork_server(self, rng: random.Random, up_s: float) -> None:
        self._kill(self.cluster.fork_server())

    def controller(self, rng: random.Random, up_s: float) -> None:
        self.cluster.kill()
        self.cluster.spawn()
        time.sleep(rng.uniform(0.0, up_s))

    def database(self, rng: random.Random, up_s: float) -> None:
        self.cluster.until_it_answers()  # a controller that finds no database when it starts says so and ends
        away_s = rng.uniform(*AWAY_S)
        if self.postgres is not None:
            self.postgres.stop(rng.choice([signal.SIGINT, signal.SIGQUIT]))
            time.sleep(away_s)
            self.postgres.start()
            return
        other = sqlite3.connect(self.cluster.state / "store.db", isolation_level=None, timeout=60)
        other.execute("BEGIN IMMEDIATE")
        time.sleep(away_s)
        other.execute("ROLLBACK")
        other.close()

    def _some_supervisor(self, rng: random.Random) -> int | None:
        def running(client: Client) -> list[dict[str, Any]]:
            return client.jobs(states=["RUNNING", "PREEMPTING"])

        jobs = self.cluster.insist(running)
        if not jobs:
            return None
        job = rng.choice(jobs)
        with suppress(OSError, ValueError):  # it has ended meanwhile
            return self.cluster.supervisor(job["id"], job["attempts"])
        return None

    @staticmethod
    def _kill(pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def mix(cluster: Cluster, seed: int, blows: int, jobs: int, postgres: Postgres | None = None) -> dict[str, Any]:
    """So many blows while people work. A job whose rank was killed says that it wants to be run again."""
    people = People(cluster, seed, jobs, retry={"max": blows, "exit_codes": [KILLED]})
    mixture = Blows(cluster, postgres)
    told = work_through(cluster, people, blows, mixture.strike, lost=True)
    return {**told, "struck": dict(mixture.struck)}
