"""trainmaster up: start the controller, its API and its status page, here and until it is interrupted."""

from __future__ import annotations

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from trainmaster.cli.output import Output
from trainmaster.errors import InputError

if TYPE_CHECKING:
    from trainmaster.live.settings import Settings

GROUP = "run jobs"
DESCRIPTION = """Start the controller on this machine. Jobs run on and are taken up again when it is stopped or killed and started anew.

It listens to this machine alone unless --host says otherwise, and then by TLS. GPUs are found by NVML; where there are none, --slots
declares CPU slots as accelerators.

With --backend slurm --shadow nothing is started or changed, and no port is opened: it watches a Slurm cluster, as any of its users, and
reports what policies would have done with its jobs; --policy then takes several, --set LABEL.PARAM=VALUE (docs/slurm-shadow.md)."""
EXAMPLES = """examples:
  trainmaster up
  trainmaster up --slots 8 --policy easy-backfill
  trainmaster up --backend ray --address 10.0.0.1:6379 --shared /nfs/trainmaster
  trainmaster up --backend slurm --shadow
  trainmaster up --config cluster.yaml --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem"""


def arguments(parser: ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EXAMPLES
    parser.usage = "trainmaster up [options]"
    add = parser.add_argument
    add("--config", metavar="FILE", help="settings, rules and queues as YAML (docs/live.md); a flag wins over it")
    add("--state", metavar="DIR", type=Path, help="store, logs, address and token (default: $TRAINMASTER_STATE, else ~/.trainmaster)")
    add("--host", metavar="H", help="where it listens (default: 127.0.0.1)")
    add("--port", metavar="N", type=_whole, help="0 takes a free one (default: 8462)")
    add("--tls-cert", metavar="FILE", type=Path, dest="tls_certificate", help="its certificate, PEM")
    add("--tls-key", metavar="FILE", type=Path, help="and the key, PEM")
    add("--insecure", action="store_true", default=None, help="beyond this machine without TLS: tokens travel in clear")
    add("--backend", choices=("local", "slurm", "ray"), help="what carries jobs out (default: local); docs/slurm.md")
    add("--address", metavar="A", help="of the system underneath")
    add("--shared", metavar="DIR", type=Path, help="a folder that all nodes see: checkpoints, snapshots (default: the state folder)")
    add("--as-user", metavar="PROGRAM", type=Path, help="slurm: jobs run as their users, by sudo PROGRAM (docs/slurm.md)")
    add("--shadow", action="store_true", default=None, help="watch it, touch nothing: what would each policy have gained?")
    add("--since", metavar="WHEN", help="of a shadow: how far back, e.g. 30d or 2026-11-01 (default: 14d)")
    add("--slots", metavar="N", type=_whole, help="accelerators where there are no GPUs (default: CPU cores)")
    add("--cluster", metavar="SPEC", help="as `simulate --cluster`")
    add("--store", metavar="URL", help="a PostgreSQL database, say (default: SQLite in the state folder)")
    add("--policy", metavar="NAME", help="(default: tiresias-las; trainmaster policies lists them)")
    add("--set", metavar="PARAM=VALUE", action="append", dest="policy_settings", help="a parameter of the policy; repeatable")
    add("--placement", metavar="NAME", help="packed, spread, first-fit, ... (default: packed)")
    add("--round", metavar="S", type=float, dest="round_s", help="decide every S seconds; 0 at every event (default: the policy's own)")


def run(args: Namespace, out: Output) -> int:
    from trainmaster.live.up import run_up

    told = settings(args)
    if told.shadow and told.backend == "slurm":
        with out.status() as doing:
            doing("preparing the engine (compiled on first use, half a minute)")
            from trainmaster.api.shadow.run import run_shadow

        def say(text: str) -> None:
            out.say(text)
            out.flush()

        return run_shadow(told, say, out.note, width=out.width, color=out.color)
    if told.since is not None:
        raise InputError("--since: says how far back a shadow looks; it goes with --backend slurm --shadow")
    return run_up(told, out.note)


def settings(args: Namespace) -> Settings:
    from trainmaster.live.settings import settings_of

    flags = {**vars(args), "policy_settings": None if args.policy_settings is None else tuple(args.policy_settings)}
    state = os.environ.get("TRAINMASTER_STATE")
    if args.state is None and state:
        flags["state"] = Path(state)
    return settings_of(flags)


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)
