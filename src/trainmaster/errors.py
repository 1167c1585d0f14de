"""What can go wrong outside: one line that says what is wrong, where, and what to do.

Two families, never mixed: `TrainmasterError` is what the world can do, handled and tested; `InvariantBroken` is what only
a bug of ours can do, and is never caught.
"""


class TrainmasterError(Exception):
    """The outside is wrong; the message, one line, says where and what to do."""

    exit_status = 1


class InputError(TrainmasterError):
    """Bad input of any kind: exit status 2."""

    exit_status = 2


class TraceError(InputError):
    """A trace file that cannot be read: `helios.csv:1042: gpu_num: "four" is not a whole number`."""


class ClusterError(InputError):
    """A cluster spec, YAML file or scontrol listing that cannot be read."""


class ParamError(InputError):
    """An unknown policy, placement or parameter, or a value it does not take."""


class NotFound(TrainmasterError):
    """No such job, node, token: HTTP 404."""


class Conflict(TrainmasterError):
    """The state of the thing forbids this verb: HTTP 409."""


class Forbidden(TrainmasterError):
    """Who asks may not do this: HTTP 403."""


class BackendError(TrainmasterError):
    """A system underneath refused or failed: its command, status and last lines."""


class InvariantBroken(AssertionError):
    """Our bug (a GPU granted twice, negative work): carries the state that broke it; never caught."""
