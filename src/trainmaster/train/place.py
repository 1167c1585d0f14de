"""Which rank this process is, of how many: PyTorch's own word, else torchrun's variables, else those of a Slurm step."""

from __future__ import annotations

import sys
from collections.abc import Mapping


def rank_and_world(environment: Mapping[str, str]) -> tuple[int, int]:
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if "SLURM_STEP_NUM_TASKS" in environment:  # SLURM_NTASKS alone is also set in the batch shell, which is one process
        return int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
    return 0, 1
