"""A training run of seconds in which everything that could break an exact resumption is present: dropout, batch normalisation, Adam,
a schedule by epoch, a shuffled loader, and augmentation that draws from Python, NumPy and PyTorch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from trainmaster.train.pytorch import States
from trainmaster.train.run import Run

EPOCHS, SAMPLES, BATCH = 3, 40, 2
STEPS = {1: EPOCHS * SAMPLES // BATCH, 4: EPOCHS * SAMPLES // BATCH // 4}  # by ranks


class Augmented(Dataset):
    def __init__(self, loaded: list[int]) -> None:
        self.loaded = loaded
        self.inputs = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.loaded.append(index)
        noise = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002  the global generator is meant
        inputs = self.inputs[index]
        return inputs + 0.1 * noise.float(), inputs.sum()


def train(
    environment: Mapping[str, str],
    *,
    during: Callable[[int], None] = lambda step: None,
    naive_epochs: bool = False,
    replay: bool = False,
    workers: int = 0,
    generator: bool = False,
    loaded: list[int] | None = None,
    **settings: object,
) -> str:
    """One attempt; SHA-256 of the final weights. `during(step)` is called in the middle of each step."""
    run = Run(environment)
    torch.manual_seed(0)  # every attempt begins as the first did: what follows is the checkpoint's
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))
    if run.world > 1:  # without it, DDP arranges gradients anew after the first step, and sums of four in another order round differently
        model = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    dataset = Augmented([] if loaded is None else loaded)
    sampler = DistributedSampler(dataset, run.world, run.rank, seed=3) if run.world > 1 else None
    drawn = torch.Generator().manual_seed(5) if generator else None
    loader = DataLoader(dataset, BATCH, shuffle=sampler is None, sampler=sampler, num_workers=workers, generator=drawn)

    states = States({"model": model, "optimizer": optimizer, "scheduler": scheduler})
    asked = {"directory": None, "every_s": None, "every_steps": None, "keep": 2, "every_rank": False, **settings}
    run.register(states.save, states.load, **asked)  # type: ignore[arg-type]
    for epoch in range(EPOCHS) if naive_epochs else run.epochs(EPOCHS):
        if sampler:
            sampler.set_epoch(epoch)
        for inputs, targets in run.steps(loader, replay):
            optimizer.zero_grad()
            loss = (model(inputs).squeeze(1) - targets).square().mean()
            loss.backward()
            during(run.step + 1)
            optimizer.step()
            run.report({"loss": loss})
        scheduler.step()
    state = states.objects["model"].state_dict()
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()
