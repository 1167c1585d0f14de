"""A convolutional network on generated images: which of eight patterns is it? Trains on CPUs in about a minute.

    python examples/cnn_images.py                                        alone
    torchrun --nproc-per-node 2 examples/cnn_images.py                   data parallel
    accelerate launch --num_processes 2 examples/cnn_images.py           data parallel, on GPUs
    trainmaster submit -- python examples/cnn_images.py                  can be stopped for others at any step

The lines that begin with `tm.` are all that makes it preemptible. However often it is stopped, it ends with the same weights to
the last bit (same number of processes): the SHA-256 that it prints shows it.
"""

import argparse
import hashlib
import math
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import trainmaster.train as tm

CLASSES, SIDE = 8, 16


def images(count: int, seed: int) -> TensorDataset:
    """Stripes in eight directions, at random phases, under noise."""
    chance = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=chance)
    phases = 2 * math.pi * torch.rand(count, 1, 1, generator=chance)
    angles = (math.pi / CLASSES * labels)[:, None, None]
    across = torch.arange(SIDE).float()
    waves = torch.sin(angles.cos() * across[None, None, :] + angles.sin() * across[None, :, None] + phases)
    return TensorDataset((waves + 0.7 * torch.randn(count, SIDE, SIDE, generator=chance))[:, None], labels)


def network() -> nn.Module:
    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(1, 16), *block(16, 32), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * (SIDE // 4) ** 2, CLASSES))


def train(args: argparse.Namespace, device: torch.device, rank: int, ranks: int) -> None:
    torch.manual_seed(0)

    net = network().to(device)
    # DDP regroups gradients after its first step unless told that some may be unused; sums in another order are rounded differently.
    model = DistributedDataParallel(net, find_unused_parameters=True) if ranks > 1 else net
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    data = images(args.samples, seed=1)
    sampler = DistributedSampler(data, ranks, rank, seed=2)
    loader = DataLoader(data, args.batch, sampler=sampler, drop_last=True)

    tm.torch_checkpoint(model=model, optimizer=optimizer, scheduler=scheduler, directory=args.checkpoints, every_steps=args.every)
    loss = torch.tensor(math.nan)  # of an epoch that was stopped after its last step there is none
    for epoch in tm.epochs(args.epochs):
        sampler.set_epoch(epoch)
        model.train()
        for inputs, labels in tm.steps(loader):
            loss = cross_entropy(model(inputs.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tm.report(loss=loss, epoch=epoch)
        scheduler.step()
        if rank == 0:
            print(f"epoch {epoch}: step {tm.steps_done()}, loss {loss.item():.4f}", flush=True)

    if rank == 0:
        net.eval()
        inputs, labels = images(1024, seed=3).tensors
        with torch.no_grad():
            right = (net(inputs.to(device)).argmax(1).cpu() == labels).float().mean().item()
        state = {name: tensor.cpu() for name, tensor in net.state_dict().items()}
        digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()
        print(f"accuracy {right:.3f}\nsha256 {digest}", flush=True)
        if args.out:
            torch.save(state, args.out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=32, help="of each process")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--checkpoints", help="where to save outside Trainmaster")
    parser.add_argument("--every", type=int, default=500, help="steps between checkpoints that are saved in any case")
    parser.add_argument("--out", help="file for the final weights")
    args = parser.parse_args()

    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if ranks > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    train(args, device, dist.get_rank() if ranks > 1 else 0, ranks)
    if ranks > 1:
        dist.destroy_process_group()  # after `train`: the model goes first, or PyTorch may hang here


if __name__ == "__main__":
    main()
