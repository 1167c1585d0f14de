"""Iterating over data from the middle: what an interrupted pass had seen is skipped, and the random draws stay as they were.

A pass over `DataLoader(shuffle=True)` draws from the global generator when it begins (the seed of its permutation and of its
workers) and, with augmentation, at every batch. So a resumed pass begins with the generators as they were when the pass began, is
moved to its place, and goes on with the generators as they were when the checkpoint was saved.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import Any


def generators_of(data: Any) -> list[Any]:
    """The torch.Generator objects that a loader draws from beside the global one."""
    holders = (data, getattr(data, "sampler", None), getattr(data, "batch_sampler", None))
    found = {id(one): one for one in (getattr(holder, "generator", None) for holder in holders) if hasattr(one, "get_state")}
    return list(found.values())


def from_start(data: Any) -> Iterator[Any]:
    """`iter(data)`. Each pass makes the same draws: a loader whose workers persist would draw their seed in its first pass of a process
    only, and a resumed pass would have another permutation."""
    if getattr(data, "persistent_workers", False) and getattr(data, "_iterator", None) is not None:
        torch = sys.modules["torch"]
        torch.empty((), dtype=torch.int64).random_(generator=data.generator)
    return iter(data)


def from_batch(data: Any, start: int, replay: bool) -> Iterator[Any]:
    """An iterator over what is left of `data` after its first `start` items; all draws up to there are made when it returns."""
    if isinstance(data, range | list | tuple):
        return iter(data[start:])
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data and type(data) is torch_data.DataLoader and not isinstance(data.dataset, torch_data.IterableDataset) and not replay:
        return _without_loading(data, start)
    items = from_start(data)
    for _ in itertools.islice(items, start):
        pass
    return items


def _without_loading(loader: Any, start: int) -> Iterator[Any]:
    """A loader's samplers may not be exchanged, so the rest of this pass is another loader's, with the same dataset and settings."""
    rest = _Rest(loader.sampler if loader.batch_sampler is None else loader.batch_sampler, start)
    sampling = {"sampler": rest, "batch_size": None} if loader.batch_sampler is None else {"batch_sampler": rest}
    batches = iter(
        type(loader)(
            loader.dataset,
            **sampling,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            generator=loader.generator,
            prefetch_factor=loader.prefetch_factor,
            pin_memory_device=loader.pin_memory_device,
            in_order=loader.in_order,
        )
    )
    rest.skip()
    return batches


class _Rest:
    """A sampler without its first items. A loader draws its workers' seed before its sampler draws a permutation: so does this."""

    def __init__(self, sampler: Iterable[Any], start: int) -> None:
        self.sampler = sampler
        self.left = start

    def __iter__(self) -> Iterator[Any]:
        self.items = iter(self.sampler)
        return self

    def __next__(self) -> Any:
        self.skip()
        return next(self.items)

    def skip(self) -> None:
        for _ in itertools.islice(self.items, self.left):
            pass
        self.left = 0

    def __len__(self) -> int:
        return len(self.sampler) - self.left  # type: ignore[arg-type]
