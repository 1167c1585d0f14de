"""Fair share over time: who has had more than a share goes behind the others of the same priority, and less so as time passes.

    used      GPU-seconds held, halved every half-life
    owed      the same for every user who waits, runs, or has used something
    overuse   0 up to what is owed, 1/4 up to twice that, 1/2 up to four times, then 3/4: taken off a job's priority

Priorities are whole numbers for most sites, so overuse orders jobs of one priority and no others; inside a level the policy's order
holds. (Slurm's multifactor priority adds a fair-share factor to the age in one sum; with levels a policy still is itself.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LEVELS = ((1.0, 0.0), (2.0, 0.25), (4.0, 0.5), (float("inf"), 0.75))  # used / owed up to this: overuse
FORGOTTEN_GPU_S = 1.0


@dataclass(slots=True)
class FairShare:
    half_life_s: float  # 0 = no fair share over time
    at_s: float = 0.0
    used_gpu_s: dict[str, float] = field(default_factory=dict)  # by user, as of at_s

    def charge(self, user: str, gpu_s: float, now_s: float) -> None:
        """GPUs that a user has held, up to now."""
        self._decay(now_s)
        self.used_gpu_s[user] = self.used_gpu_s.get(user, 0.0) + gpu_s

    def overuse(self, here: Iterable[str], holding_gpu_s: Mapping[str, float], now_s: float) -> dict[str, float]:
        """By user; `holding_gpu_s`: what running jobs hold and nobody has charged yet."""
        if self.half_life_s <= 0:
            return {}
        self._decay(now_s)
        users = set(here) | set(self.used_gpu_s) | set(holding_gpu_s)
        used = {user: self.used_gpu_s.get(user, 0.0) + holding_gpu_s.get(user, 0.0) for user in users}
        owed = sum(used.values()) / max(len(users), 1)
        return {user: next(level for most, level in LEVELS if amount <= most * owed) for user, amount in used.items()} if owed > 0 else {}

    def as_json(self) -> dict[str, Any]:
        return {"at_s": self.at_s, "used_gpu_s": dict(self.used_gpu_s)}

    def take_up(self, stored: Mapping[str, Any] | None) -> None:
        """What a controller before this one wrote down."""
        if stored is not None:
            self.at_s, self.used_gpu_s = stored["at_s"], dict(stored["used_gpu_s"])

    def _decay(self, now_s: float) -> None:
        if self.half_life_s > 0 and now_s > self.at_s:
            left = 0.5 ** ((now_s - self.at_s) / self.half_life_s)
            self.used_gpu_s = {user: used * left for user, used in self.used_gpu_s.items() if used * left >= FORGOTTEN_GPU_S}
        self.at_s = max(self.at_s, now_s)
