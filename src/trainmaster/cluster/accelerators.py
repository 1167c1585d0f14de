"""The accelerator catalogue: one name and one memory size for the many ways to write a type.

Only names listed here have aliases; any other type name is opaque and stays as given ("aws", "dgx-ext", "G2"...).
Memory is what one schedulable device offers, as the vendor's data sheet gives it: a K80 or MI250X board counts as two
devices. Cards sold with two sizes are two entries; the smaller, older one keeps the short name that published
performance profiles use (v100 = 16 GiB, a100 = 40 GiB).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Accelerator:
    name: str  # canonical: what specs, profiles and reports say
    memory_gib: float
    aliases: tuple[str, ...] = ()  # lower case, words joined by "-", without the vendor's name


def canonical(name: str) -> str:
    """The catalogue's name for a known type, in any spelling and case; any other name as given."""
    known = lookup(name)
    return name if known is None else known.name


def lookup(name: str) -> Accelerator | None:
    return _BY_ALIAS.get(_VENDOR.sub("", re.sub(r"[\s_-]+", "-", name.strip().lower())))


def with_memory(names: tuple[str, ...], least_gib: float) -> tuple[str, ...]:
    """Of these types (none: of all), those known to have so much memory on each device, the least that is enough first."""
    known = [card for card in (map(lookup, names) if names else CATALOGUE) if card is not None and card.memory_gib >= least_gib]
    return tuple(card.name for card in sorted(known, key=lambda card: card.memory_gib))


def _sold_as(chip: str, size: str, *boards: str) -> tuple[str, ...]:
    """Spellings of one memory size: v100-16gb, v100-sxm2-16gb, v100-16gb-sxm2."""
    return (f"{chip}-{size}", *(form for board in boards for form in (f"{chip}-{board}-{size}", f"{chip}-{size}-{board}")))


_VENDOR = re.compile(r"^((nvidia|tesla|geforce|quadro|amd|instinct)-)+")  # what NVML and Slurm's AutoDetect put before

CATALOGUE = (
    # NVIDIA data centre: nvidia.com/data-center, the data sheet of each product
    Accelerator("k80", 12),
    Accelerator("m60", 8),
    Accelerator("p4", 8),
    Accelerator("p40", 24),
    Accelerator("p100", 16, ("p100-pcie", "p100-sxm2", *_sold_as("p100", "16gb", "pcie", "sxm2"))),
    Accelerator("p100-12gb", 12, ("p100-pcie-12gb",)),
    Accelerator("v100", 16, ("v100-pcie", "v100-sxm2", "v100m16", *_sold_as("v100", "16gb", "pcie", "sxm2"))),  # v100m16: Alibaba
    Accelerator("v100-32gb", 32, ("v100m32", "v100s", "v100s-pcie-32gb", *_sold_as("v100", "32gb", "pcie", "sxm2", "sxm3"))),
    Accelerator("t4", 16),
    Accelerator("a2", 16),
    Accelerator("a10", 24),
    Accelerator("a10g", 24),
    Accelerator("a16", 16),
    Accelerator("a30", 24),
    Accelerator("a40", 48),
    Accelerator("a100", 40, ("a100-pcie", "a100-sxm4", *_sold_as("a100", "40gb", "pcie", "sxm", "sxm4"))),
    Accelerator("a100-80gb", 80, ("a100-80g", *_sold_as("a100", "80gb", "pcie", "sxm", "sxm4"))),
    Accelerator("l4", 24),
    Accelerator("l40", 48),
    Accelerator("l40s", 48),
    Accelerator("h20", 96),
    Accelerator("h100", 80, ("h100-pcie", "h100-sxm", "h100-sxm5", *_sold_as("h100", "80gb", "pcie", "sxm", "sxm5", "hbm3"))),
    Accelerator("h100-nvl", 94, ("h100-94gb",)),
    Accelerator("h200", 141, ("h200-sxm", "h200-nvl", "h200-141gb")),
    Accelerator("gh200", 96, ("gh200-480gb",)),  # 480 GB is the CPU's memory
    Accelerator("b200", 180),
    Accelerator("gb200", 186),
    # NVIDIA workstation and consumer: nvidia.com, product specifications
    Accelerator("gtx1080ti", 11, ("gtx-1080-ti", "gtx-1080ti", "1080ti")),
    Accelerator("titan-xp", 12, ("titanxp",)),
    Accelerator("titan-v", 12, ("titanv",)),
    Accelerator("titan-rtx", 24, ("titanrtx",)),
    Accelerator("rtx2080", 8, ("rtx-2080",)),
    Accelerator("rtx2080ti", 11, ("rtx-2080-ti", "rtx-2080ti", "2080ti")),
    Accelerator("rtx3090", 24, ("rtx-3090", "3090")),
    Accelerator("rtx4090", 24, ("rtx-4090", "4090")),
    Accelerator("rtx5090", 32, ("rtx-5090", "5090")),
    Accelerator("rtx6000", 24, ("rtx-6000",)),  # Turing; its two successors of that number follow
    Accelerator("rtx6000-ada", 48, ("rtx-6000-ada", "rtx-6000-ada-generation")),
    Accelerator("rtx-pro-6000", 96, ("rtxpro6000", "rtx-pro-6000-blackwell-server-edition")),
    Accelerator("rtx8000", 48, ("rtx-8000",)),
    Accelerator("a4000", 16, ("rtx-a4000", "rtxa4000")),
    Accelerator("a5000", 24, ("rtx-a5000", "rtxa5000")),
    Accelerator("a6000", 48, ("rtx-a6000", "rtxa6000")),
    # AMD Instinct: amd.com, the data sheet of each product
    Accelerator("mi100", 32),
    Accelerator("mi210", 64),
    Accelerator("mi250", 64),
    Accelerator("mi250x", 64),
    Accelerator("mi300a", 128),
    Accelerator("mi300x", 192),
    Accelerator("mi325x", 256),
    Accelerator("mi355x", 288),
)

_BY_ALIAS = {alias: known for known in CATALOGUE for alias in (known.name, *known.aliases)}
