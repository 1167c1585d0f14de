"""A real PyTorch job, alone or one of a gang: everything in it that could break an exact resumption, in a second of work.

    python training.py FOLDER STEPS_AN_EPOCH PACE_S

Each rank appends a line a step to FOLDER/trace.RANK: attempt, step, whether it had been asked to stop when the step began.
"""

import hashlib
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import trainmaster.train as tm

EPOCHS, BATCH = 4, 2


class Augmented(Dataset):
    def __init__(self, samples: int) -> None:
        self.inputs = torch.randn(samples, 6, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002  the global generator is meant
        return self.inputs[index] + 0.1 * noise.float(), self.inputs[index].sum()


def train(folder: Path, steps: int, pace_s: float, rank: int, world: int) -> str:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
    model = DistributedDataParallel(net, find_unused_parameters=True) if world > 1 else net
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    data = Augmented(steps * BATCH * world)
    sampler = DistributedSampler(data, world, rank, seed=3)
    loader = DataLoader(data, BATCH, sampler=sampler)
    tm.torch_checkpoint(model=model, optimizer=optimizer, scheduler=scheduler)
    with open(folder / f"trace.{rank}", "a", buffering=1) as trace:
        for epoch in tm.epochs(EPOCHS):
            sampler.set_epoch(epoch)
            for inputs, targets in tm.steps(loader):
                asked = tm.should_stop()
                optimizer.zero_grad()
                loss = (model(inputs).squeeze(1) - targets).square().mean()
                loss.backward()
                optimizer.step()
                tm.report(loss=loss)
                time.sleep(pace_s)
                trace.write(f"{tm.attempt()} {tm.steps_done() + 1} {int(asked)}\n")
            scheduler.step()
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in net.state_dict().values())).hexdigest()


def main() -> None:
    folder, steps, pace_s = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo")
    digest = train(folder, steps, pace_s, rank, world)
    if rank == 0:
        print(f"sha256 {digest}", flush=True)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
