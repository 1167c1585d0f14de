"""trainmaster shell JOB: a shell inside a running job."""

from __future__ import annotations

import subprocess
from argparse import ArgumentParser, Namespace

from trainmaster.cli.connection import add_common, connect
from trainmaster.cli.output import Output, as_json
from trainmaster.cli.references import one
from trainmaster.errors import TrainmasterError

GROUP = "look at them"


def arguments(parser: ArgumentParser) -> None:
    parser.description = """On the machine of the controller, or of Slurm's where it runs the jobs: the job's folder, environment and GPUs.
The shell ends with the job."""
    parser.add_argument("job", help="id or name")
    add_common(parser)


def run(args: Namespace, out: Output) -> int:
    with connect(args) as client:
        argv = client.shell(one(client, args.job))
    if args.json:
        out.say(as_json({"argv": argv}))
        return 0
    try:
        return subprocess.run(argv, check=False).returncode
    except OSError as error:
        raise TrainmasterError(f"{argv[0]}: {error.strerror}; a shell can be opened on the controller's own machine alone") from None
