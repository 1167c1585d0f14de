"""Which controller a verb speaks to, and the options that every live verb has."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from trainmaster.errors import InputError
from trainmaster.live.client import Client

HELP = "the controller's folder (default: $TRAINMASTER_STATE, else $TRAINMASTER_URL and $TRAINMASTER_TOKEN, else ~/.trainmaster)"


def add_common(parser: ArgumentParser, *, json: bool = True) -> None:
    if json:
        parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument("--state", metavar="DIR", help=HELP)


def state_folder(args: Namespace) -> Path:
    return Path(args.state or os.environ.get("TRAINMASTER_STATE") or "~/.trainmaster").expanduser()


def connect(args: Namespace) -> Client:
    url = os.environ.get("TRAINMASTER_URL")
    if args.state or os.environ.get("TRAINMASTER_STATE") or not url:
        return Client.of_state(state_folder(args))
    token = os.environ.get("TRAINMASTER_TOKEN")
    if not token:
        raise InputError("TRAINMASTER_TOKEN: is missing; the controller that TRAINMASTER_URL names wants one (trainmaster token create)")
    return Client(url, token)
