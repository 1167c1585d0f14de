"""What a killed supervisor has left: its ranks die with it (PR_SET_PDEATHSIG); what those forked is found here and killed."""

from __future__ import annotations

import signal
import time
from typing import Any

from trainmaster.live.node import cgroups, limits, linux


def clear(plan: dict[str, Any], within_s: float) -> bool:
    """True: nothing of the attempt is left. Found by its cgroup and by the environment: what escapes one is seen by the other."""
    until_s = time.monotonic() + within_s
    cgroup = plan["cgroup"]
    while True:
        left = linux.marked(plan["marker"])
        if cgroup is not None:
            inside = cgroups.members(cgroup["folder"])
            if inside:
                cgroups.kill(cgroup["kind"], cgroup["folder"])
            left += inside
        if not left:
            if cgroup is not None:
                cgroups.remove(cgroup["folder"])
            limits.remove(plan["limits"])
            return True
        linux.kill(left, signal.SIGKILL)
        if time.monotonic() > until_s:
            return False
        time.sleep(0.005)
