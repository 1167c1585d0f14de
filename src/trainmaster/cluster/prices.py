"""What an hour of one accelerator costs, in US dollars, where nobody says otherwise.

Public list prices on demand (Linux), without discounts, of the smallest instance that has whole accelerators, divided by their number.

    Amazon EC2, us-east-1, aws.amazon.com/ec2/pricing/on-demand, as first listed: K80 p2.xlarge 0.90; V100 p3.2xlarge 3.06, of 32 GiB
    p3dn.24xlarge 31.212 / 8; T4 g4dn.xlarge 0.526; A10G g5.xlarge 1.006; L4 g6.xlarge 0.8048; A100 p4d.24xlarge 32.7726 / 8, of 80 GiB
    p4de.24xlarge 40.9657 / 8; H100 p5.48xlarge 98.32 / 8 (2023); CPUs, two sockets: c6i.32xlarge 5.44
    Microsoft Azure, East US, azure.microsoft.com/pricing/details/virtual-machines: P100 NC6s_v2 2.07

Prices fall (A100 and H100 are listed lower since 2025); it is their ratios that matter here.
"""

from __future__ import annotations

from collections.abc import Iterable

from trainmaster.cluster.accelerators import canonical
from trainmaster.errors import ParamError

USD_AN_HOUR = {"cpu": 5.44, "k80": 0.90, "p100": 2.07, "v100": 3.06, "v100-32gb": 3.9015, "t4": 0.526, "a10g": 1.006, "l4": 0.8048,
               "a100": 4.0966, "a100-80gb": 5.1207, "h100": 12.29}  # fmt: skip


def usd_an_hour(types: Iterable[str], given: Iterable[str]) -> list[float]:
    """The price of each type: as given, "TYPE:USD", else the list's. Raises ParamError for a type without one."""
    prices = dict(USD_AN_HOUR)
    for text in given:
        name, _, price = text.rpartition(":")
        try:
            prices[canonical(name)] = float(price)
        except ValueError:
            raise ParamError(f"prices: {text!r} is not TYPE:USD, e.g. prices=v100:2.48,k80:0.45") from None
    types = list(types)
    if len(types) == 1:  # where all cost the same, it does not matter what
        return [1.0]
    for name in types:
        if not prices.get(canonical(name), 0.0) > 0:
            raise ParamError(f"prices: none above 0 is known for {name or 'untyped nodes'}; give it, e.g. prices={name or 'TYPE'}:1.5")
    return [prices[canonical(name)] for name in types]
