"""What a decision gives one job: its lines together, checked, in thousandths."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from trainmaster.errors import InputError, InvariantBroken
from trainmaster.policies.base import Line
from trainmaster.workload.jobs import GPU_MILLI

if TYPE_CHECKING:
    from trainmaster.engine.core import Engine


@dataclass(frozen=True, slots=True)
class Amount:
    """GPUs (before their share is taken), CPUs and memory."""

    gpu_milli: int
    cpu_milli: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Want:
    """One job of a decision."""

    row: int
    lines: tuple[Line, ...]
    amounts: tuple[Amount, ...]  # of each line
    gpu_milli: int  # GPUs it runs on, in thousandths
    share_milli: int  # of each of them
    config: int
    partner: int | None

    @property
    def each_milli(self) -> int:
        """What it takes of a GPU: less than 1000 shares it."""
        return min(self.gpu_milli, GPU_MILLI) * self.share_milli // GPU_MILLI

    @property
    def shares(self) -> bool:
        return 0 < self.each_milli < GPU_MILLI

    @property
    def named(self) -> bool:
        """Every line names its node."""
        return all(line.node is not None for line in self.lines)

    @property
    def total(self) -> Amount:
        return Amount(self.gpu_milli, sum(a.cpu_milli for a in self.amounts), sum(a.memory_mib for a in self.amounts))

    def by_node(self) -> dict[int, Amount]:
        """Of lines that name their nodes."""
        found: dict[int, Amount] = {}
        for line, amount in zip(self.lines, self.amounts, strict=True):
            assert line.node is not None
            found[line.node] = added(found.get(line.node), amount)
        return found


def added(first: Amount | None, second: Amount) -> Amount:
    if first is None:
        return second
    return Amount(first.gpu_milli + second.gpu_milli, first.cpu_milli + second.cpu_milli, first.memory_mib + second.memory_mib)


def split(total: int, weights: Iterable[int]) -> list[int]:
    """A whole number in parts by weight that add up to it exactly."""
    upto = list(accumulate(weights, initial=0))
    return [total * end // upto[-1] - total * begin // upto[-1] for begin, end in pairwise(upto)] if upto[-1] else [total]


def read(engine: Engine, row: int, lines: tuple[Line, ...]) -> Want:
    """The lines of one job as one want; what no engine could carry out is refused."""
    job, first = engine.state.jobs[row], lines[0]
    if any((line.share, line.config, line.partner) != (first.share, first.config, first.partner) for line in lines):
        raise _bad(engine, row, "its lines differ in share, config or partner group; they are one gang")
    gpu_milli = [round(line.gpus * GPU_MILLI) for line in lines]
    total, share_milli = sum(gpu_milli), round(first.share * GPU_MILLI)
    if min(gpu_milli) < 0 or (total == 0) != (job["milli"] == 0):
        raise _bad(engine, row, f"{total / GPU_MILLI:g} GPUs, where it asks for {job['milli'] / GPU_MILLI:g}")
    if not 0 < share_milli <= GPU_MILLI or (share_milli < GPU_MILLI < total and total % GPU_MILLI):
        raise _bad(engine, row, f"a share of {first.share:g} of {total / GPU_MILLI:g} GPUs")
    if first.config >= 0 and not engine.traits.rate_cards:
        raise _bad(engine, row, "a config, and its performance model has no rate cards")
    for line in lines:
        if line.node is not None and not 0 <= line.node < len(engine.cluster.nodes):
            raise _bad(engine, row, f"node {line.node}; there are {len(engine.cluster.nodes)}")
        if line.type is not None and line.type not in engine.types:
            raise _bad(engine, row, f"type {line.type!r}, which no node has")
    check_bounds(engine, row, total / GPU_MILLI)
    # what a line does not name goes with its GPUs, at the job's own rate
    weights = gpu_milli if total else [1] * len(lines)
    cpus = split(int(job["cpu_milli"]) * total // max(int(job["milli"]), 1) if total else int(job["cpu_milli"]), weights)
    memory = split(int(job["memory_mib"]) * total // max(int(job["milli"]), 1) if total else int(job["memory_mib"]), weights)
    cpus = [cpu if line.cpus is None else round(line.cpus * 1000) for line, cpu in zip(lines, cpus, strict=True)]
    memory = [mib if line.memory_gib is None else round(line.memory_gib * 1024) for line, mib in zip(lines, memory, strict=True)]
    amounts = tuple(map(Amount, gpu_milli, cpus, memory))
    return Want(row, lines, amounts, total, share_milli, first.config, first.partner)


def check_bounds(engine: Engine, row: int, gpus: float) -> None:
    """No elastic job runs on fewer GPUs than its least, or more than its most."""
    least, most = engine.jobs.min_gpus[row], engine.jobs.max_gpus[row]
    if gpus < least or gpus > most:  # NaN, no bound, compares as false
        raise InvariantBroken(f"{engine.label}: job {engine.jobs.id[row]} is given {gpus:g} GPUs; it runs on {least:g} to {most:g}")


def _bad(engine: Engine, row: int, what: str) -> InputError:
    return InputError(f"--policy: {engine.policy.name} gives job {engine.jobs.id[row]} {what}")
