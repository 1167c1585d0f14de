"""A small transformer that learns to write like the help texts of Python, letter by letter. Trains on CPUs in a minute or two.

    python examples/transformer_text.py
    torchrun --nproc-per-node 2 examples/transformer_text.py
    accelerate launch --num_processes 2 examples/transformer_text.py     on GPUs
    trainmaster submit -- python examples/transformer_text.py

No epochs and no loader here: a number of steps, each on windows drawn at random from the text. What is drawn after a resumption is
what would have been drawn without it, since the random number generators are part of the checkpoint.
"""

import argparse
import hashlib
import os
from pydoc_data.topics import topics

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import trainmaster.train as tm

WINDOW = 64


class Writer(nn.Module):
    def __init__(self, letters: int, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.letters = nn.Embedding(letters, width)
        self.places = nn.Embedding(WINDOW, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(width, letters)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(WINDOW), persistent=False)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        length = text.shape[1]
        hidden = self.letters(text) + self.places(torch.arange(length, device=text.device))
        return self.out(self.layers(hidden, mask=self.mask[:length, :length], is_causal=True))


def train(args: argparse.Namespace, device: torch.device, rank: int, ranks: int) -> None:
    letters = "".join(topics[name] for name in sorted(topics))
    alphabet = sorted(set(letters))
    number = {letter: k for k, letter in enumerate(alphabet)}
    text = torch.tensor([number[letter] for letter in letters])

    torch.manual_seed(0)  # the same weights on every rank
    net = Writer(len(alphabet)).to(device)
    # DDP regroups gradients after its first step unless told that some may be unused; sums in another order are rounded differently.
    model = DistributedDataParallel(net, find_unused_parameters=True) if ranks > 1 else net
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps)
    torch.manual_seed(1 + rank)  # other windows on every rank

    tm.torch_checkpoint(model=model, optimizer=optimizer, scheduler=scheduler, directory=args.checkpoints, every_steps=args.every)
    for step in tm.steps(args.steps):
        starts = torch.randint(len(text) - WINDOW, (args.batch,))
        windows = torch.stack([text[start : start + WINDOW + 1] for start in starts.tolist()]).to(device)
        loss = cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        tm.report(loss=loss)
        if rank == 0 and (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)

    if rank == 0:
        net.eval()
        written = text[:1].to(device)
        with torch.no_grad():
            for _ in range(200):
                chances = net(written[None, -WINDOW:])[0, -1].softmax(0)
                written = torch.cat([written, torch.multinomial(chances, 1)])
        print("".join(alphabet[k] for k in written.tolist()))
        state = {name: tensor.cpu() for name, tensor in net.state_dict().items()}
        digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()
        print(f"sha256 {digest}", flush=True)
        if args.out:
            torch.save(state, args.out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16, help="of each process")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--checkpoints", help="where to save outside Trainmaster")
    parser.add_argument("--every", type=int, default=200, help="steps between checkpoints that are saved in any case")
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
