"""What a description of a cluster may hold, so that a slip of the keyboard or a hostile file does not fill the memory."""

from __future__ import annotations

from trainmaster.cluster.accelerators import canonical
from trainmaster.cluster.wording import quoted
from trainmaster.errors import ClusterError

MAX_NODES = 1_000_000
MAX_GPUS = 10_000_000  # the ledger keeps a number for every one
MAX_TEXT = 200  # characters of a name
MAX_FILE_BYTES = 64 << 20  # scontrol prints about 1 KiB a node


def check_size(nodes: int, gpus: int, where: str) -> None:
    if nodes > MAX_NODES:
        raise ClusterError(f"{where}: {nodes:,} nodes; at most {MAX_NODES:,} can be simulated")
    if gpus > MAX_GPUS:
        raise ClusterError(f"{where}: {gpus:,} GPUs; at most {MAX_GPUS:,} can be simulated")


def checked_text(text: str, where: str) -> str:
    """A name of the outside, fit to be shown in a table: printable, not empty, not endless."""
    name = text.strip()
    if not name:
        raise ClusterError(f"{where}: an empty name; give a plain one")
    if len(name) > MAX_TEXT or not name.isprintable():
        problem = f"has more than {MAX_TEXT} characters" if len(name) > MAX_TEXT else "has unprintable characters"
        raise ClusterError(f"{where}: the name {quoted(name)} {problem}; give a plain one")
    return name


def checked_type(text: str, where: str) -> str:
    return canonical(checked_text(text, where))
