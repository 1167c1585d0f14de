"""The engine's state as arrays: one record a job, a node, a pool, a class of demand, a queue, an allocation; one clock.

Everything the loop needs to go on lies here, so that the compiled kernels (`kernels.py`), the Python loop (`loop.py`)
and a policy's view read and write the same memory. Memory of 280 bytes a job keeps a million jobs in 0.3 GiB.

pool    nodes of one accelerator type open to the same queues: what capacity is counted by
class   jobs that ask for exactly the same: where one of them does not fit, no later one does
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Phases of a job. A holding is reserved, starting, running or draining; the twin's delays are 0 but for the restart cost.
FUTURE, WAITING, RESERVED, STARTING, RUNNING, DRAINING, ENDED = range(7)
CLAIM, DRAIN, FREED = range(3)  # acts: GPUs are promised to a job; it must give them back; it has ended

JOB = np.dtype(
    [  # what every walk reads of a running job comes first: three cache lines
        ("running", "i1"),  # holds an allocation
        ("pinned", "i1"),  # may not be preempted
        ("new", "i1"),  # not yet seen by a decision
        ("phase", "i1"),
        ("verdict", "i1"),
        ("klass", "i4"),
        ("queue", "i4"),
        ("seq", "i8"),
        ("milli", "i8"),  # thousandths of a GPU asked
        ("held_milli", "i8"),  # and held
        ("settled_gpu_s", "f8"),  # attained service up to held_since_s
        ("held_since_s", "f8"),
        ("since_s", "f8"),
        ("ready_s", "f8"),  # the restart cost is paid
        ("rate", "f8"),
        ("work_left", "f8"),  # at since_s
        ("served_s", "f8"),  # held and working, without restart costs
        ("alone_rate", "f8"),  # on what it asked for, alone
        ("estimate_s", "f8"),  # run time the policy may believe; NaN: the true one (an oracle)
        ("attained_gpu_s", "f8"),  # attained service now: refreshed before a key sees it
        ("remaining_s", "f8"),  # alone on what it asked for, by estimate_s or in truth: refreshed likewise
        ("submit_s", "f8"),
        ("allocation", "i8"),  # row of the allocation log, -1 = holds nothing
        ("short_milli", "i8"),  # what the last walk missed
        ("due_s", "f8"),  # end of work, or the mark
        ("mark_left", "f8"),  # the rate holds until so much work is left; 0 = to the end
        ("cpu_milli", "i8"),
        ("memory_mib", "i8"),
        ("eligible_s", "f8"),
        ("arrive_s", "f8"),  # offered to the policy from here on
        ("limit_s", "f8"),
        ("restart_s", "f8"),
        ("held_s", "f8"),
        ("overhead_gpu_s", "f8"),
        ("lost_gpu_s", "f8"),
        ("served_mark_s", "f8"),  # served_s at the last start: checkpoints count from there
        ("start_s", "f8"),
        ("finish_s", "f8"),
        ("max_nodes", "i4"),
        ("near_nodes", "i4"),  # and before near_until_s it waits for so few
        ("near_until_s", "f8"),
        ("avoid", "i4"),  # a node on which it failed to start, -1 = none
        ("preemptions", "i4"),
        ("migrations", "i4"),
        ("resizes", "i4"),
        ("failures", "i4"),
        ("share_milli", "i4"),  # of each GPU it holds; 1000 = it shares none, or holds a fraction of one
        ("config", "i4"),  # entry of its rate card, -1 = its own
        ("as_asked", "i1"),  # it holds its gang, unshared, on one type, in its own configuration: the table's rate holds
    ],
    align=True,
)

NODE = np.dtype(
    [
        ("free_milli", "i8"),  # of GPUs that nobody shares
        ("cpu_free_milli", "i8"),
        ("memory_free_mib", "i8"),
        ("gpus", "i4"),
        ("pool", "i4"),
        ("slot", "i4"),  # first entry of its GPUs in State.slots
        ("up", "i1"),
        ("pooled", "i1"),
        ("counts_cpu", "i1"),
        ("counts_memory", "i1"),
    ],
    align=True,
)

POOL = np.dtype([("total_milli", "i8"), ("free_milli", "i8"), ("type", "i4")], align=True)  # of its open nodes

CLASS = np.dtype(
    [
        ("milli", "i8"),
        ("cpu_milli", "i8"),
        ("memory_mib", "i8"),
        ("even_nodes", "i4"),  # exactly so many, as much on each; 0 = wherever it fits
        ("queue", "i4"),
        ("component", "i4"),  # classes that compete for the same nodes
        ("offset", "i4"),  # its waiting jobs are a heap at waiting[offset : offset + size]
        ("size", "i4"),
        ("excluded", "i8"),  # the decision in which no room was found for one of it,
        ("excluded_from", "i4"),  # and the first in order of which that is true
        ("short_milli", "i8"),
        ("refused", "i8"),  # the decision that refused its head before it chose anybody
        ("told", "i8"),  # the decision that last refused one of it; the first it refused, why, and what that missed
        ("told_row", "i4"),
        ("told_milli", "i8"),
        ("verdict", "i1"),
        ("plain", "i1"),  # whole GPUs and nothing else: nodes differ only in how many are free
    ],
    align=True,
)

QUEUE = np.dtype([("quota_milli", "i8"), ("used_milli", "i8"), ("borrow", "i1")], align=True)

ALLOCATION = np.dtype(
    [
        ("first_part", "i8"),  # its parts end where those of the next begin
        ("start_s", "f8"),
        ("end_s", "f8"),
        ("job", "i4"),
    ],
    align=True,
)

PART = np.dtype(
    [
        ("cpu_milli", "i8"),
        ("memory_mib", "i8"),
        ("node", "i4"),
        ("milli", "i4"),
        ("slot", "i4"),  # the shared GPU, -1 = whole ones
        ("next", "i4"),  # and another part of it
    ],
    align=True,
)

I4, I8, F8, I1, U8 = (np.dtype(code) for code in ("i4", "i8", "f8", "i1", "u8"))

# Every array of a run: its element and number of dimensions.
ARRAYS: dict[str, tuple[np.dtype[Any], int]] = {
    "jobs": (JOB, 1),
    "keys": (F8, 2),  # [n, 4]: -priority, then the policy's key; ties by row
    "history_of": (I4, 2),  # [n, 4]: rows of `history` a job belongs to, nearest first: its name, user, queue, everybody
    "history": (F8, 2),  # [groups, 2]: jobs ended, and the seconds they ran in all
    "rates": (F8, 2),  # [n or 1, types]: where they are fixed
    "nodes": (NODE, 1),
    "slots": (I4, 1),  # [GPUs]: thousandths held by sharers; 0 = not shared
    "slot_head": (I4, 1),  # [GPUs]: the part that took a share last; those of one GPU are a list through `next`, -1 ends
    "touched": (I1, 1),  # [GPUs]: its sharers have changed, and their rates may have
    "pools": (POOL, 1),
    "buckets": (U8, 3),  # [pools, free GPUs, words]: bit = a node of the pool with so many whole GPUs free
    "bucket_size": (I8, 2),
    "classes": (CLASS, 1),
    "class_pools": (I4, 2),  # [classes, pools]: pools it may use, types in order of preference; -1 ends
    "queues": (QUEUE, 1),  # the last is "no queue"
    "arrivals": (I4, 1),  # [n]: rows by arrive_s
    "heap_s": (F8, 1),  # due times; stale entries are dropped when they surface
    "heap_row": (I4, 1),
    "waiting": (I4, 1),  # [n]: the classes' heaps
    "running_list": (I4, 1),  # [n]: holding jobs, in the order of the last walk
    "fresh": (I4, 1),  # [n]: arrived or stopped since the last decision
    "rated": (I4, 1),  # [n]: jobs whose rate the model must tell
    "mark": (I8, 1),  # [n]: the walk that last chose it
    "walk": (I4, 1),  # [n]: rows in order
    "chosen": (I4, 1),  # [n]
    "newcomers": (I4, 1),  # [n]: those of the chosen that hold nothing yet
    "ends": (I8, 1),  # [n]: where a newcomer's parts end
    "spare": (I4, 1),  # [n]: scratch of the sort and of pops
    "out": (F8, 2),  # [n, 3]: what a key function writes
    "heads": (I4, 1),  # [classes]
    "cap": (I8, 1),  # [pools]
    "beside": (I8, 1),  # [pools]: what those ahead leave of it
    "used": (I8, 1),  # [queues]
    "blocked": (I1, 1),  # [components]
    "group": (I4, 1),  # [n]: type group a newcomer was counted on
    "usable": (I8, 1),  # [nodes]: scratch of placement
    "counts": (I8, 1),  # [free GPUs]
    "acts": (I4, 2),  # [_, 2]: what decisions changed and the executor is yet to be told: row, and which
    "allocations": (ALLOCATION, 1),  # the log of the run: who held
    "parts": (PART, 1),  # and what
}

# The clock also carries where each array lies, so that a kernel is handed one record and numba compiles one argument.
CLOCK = np.dtype(
    [
        ("now_s", "f8"),
        ("until_s", "f8"),  # next thing that happens outside: a failure, a node change
        ("decided_s", "f8"),  # the last decision
        ("decide_s", "f8"),  # next decision, inf = nothing to decide
        ("round_s", "f8"),
        ("wake_grid_s", "f8"),
        ("due_grid_s", "f8"),
        ("decisions", "i8"),
        ("pause_at", "i8"),  # return to the caller at this decision (progress)
        ("heap", "i8"),
        ("arrived", "i8"),
        ("relaxed", "i8"),  # of those arrived, so many have given up on locality
        ("n_fresh", "i8"),
        ("n_running", "i8"),
        ("n_rated", "i8"),
        ("n_touched", "i8"),
        ("n_waiting", "i8"),
        ("n_holding", "i8"),
        ("finite_left", "i8"),
        ("finite_holding", "i8"),
        ("n_allocations", "i8"),
        ("n_parts", "i8"),
        ("n_acts", "i8"),
        ("most_preemptions", "i8"),  # a job stopped so often is stopped no more; 0 = no bound
        ("min_run_s", "f8"),  # nor is one that has held its GPUs for less
        ("active_milli", "i8"),
        ("closed_milli", "i8"),  # held on nodes that take nobody new: nothing that a stopped job would leave to others
        ("walks", "i8"),
        ("n_ahead", "i8"),  # the first of `walk` so many rank before all who wait: they stay, in any order
        ("n_chosen", "i8"),
        ("n_newcomers", "i8"),
        ("n_popped", "i8"),
        ("gpus", "i8"),  # of all nodes, up or not
        ("changed", "i8"),  # jobs started or stopped by the last decision
        ("idle", "i8"),  # decisions in a row that changed nothing while only services ran
        ("serving", "i8"),  # decisions in a row while only services ran
        ("broken", "i8"),  # row of a job that broke an invariant, -1 = none
        ("delays", "i1"),  # starting and stopping take time: an executor is told, and says when it is done
        ("open", "i1"),  # more may come from outside: the run never ends by itself
        ("preemptive", "i1"),
        ("blocking", "i1"),
        ("local", "i1"),  # gangs wait for locality
        ("keeps_count", "i1"),  # a job that cannot be placed keeps its count (Lucid's quota)
        ("stateful", "i1"),  # the key must see every wake-up, jobs waiting or not
        ("quotas", "i1"),
        ("endless", "i1"),  # what happens outside are failures only, which never end
        ("wakes", "i1"),  # the policy's ranks change by themselves
        ("heaps", "i1"),  # waiting jobs lie in the classes' heaps (compiled key)
        ("predicts", "i1"),  # estimates come from the history of ended jobs
        ("fixed_rates", "i1"),
        ("by_neighbours", "i1"),  # rates depend on who shares the GPUs
        ("random", "i1"),  # ties between nodes by chance
        ("simple", "i1"),  # one pool, every class plain: capacity is one number
        ("seed", "u8"),
        *((f"{name}_at", "u8") for name in ARRAYS),
        *((f"{name}_n{axis}", "i8") for name, (_, axes) in ARRAYS.items() for axis in range(axes)),
    ],
    align=True,
)


class State:
    """The arrays of a run by name, and `clock`, the record that kernels see them through."""

    def __init__(self, **arrays: Any) -> None:
        self.clock = np.zeros(1, CLOCK)
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}
        for name in ARRAYS:
            self.replace(name, arrays[name])

    def replace(self, name: str, array: np.ndarray[Any, Any]) -> None:
        """Put an array (a longer log, say) in the place of another."""
        dtype, axes = ARRAYS[name]
        assert array.dtype == dtype and array.ndim == axes and array.flags.c_contiguous, name
        self.arrays[name] = array
        clock = self.clock[0]
        clock[f"{name}_at"] = array.ctypes.data
        for axis in range(axes):
            clock[f"{name}_n{axis}"] = array.shape[axis]

    def parts_of(self, allocation: int) -> np.ndarray[Any, Any]:
        """What an allocation is made of."""
        begin, end = self.allocations["first_part"][allocation : allocation + 2]
        return self.parts[begin:end]

    def __getattr__(self, name: str) -> np.ndarray[Any, Any]:
        try:
            return self.__dict__["arrays"][name]
        except KeyError:
            raise AttributeError(name) from None
