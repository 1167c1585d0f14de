"""The actor of Ray that holds one node's share of an attempt: it brings the code of `live.node` along, and ends when its node is given up.

Pickled whole, since Trainmaster need not be installed on the nodes: this module imports the standard library and Ray alone, and what
runs there comes as text. A raylet that is killed leaves its workers running, and the cluster starts their work elsewhere: so this one
watches its raylet, asks Ray whether the node still belongs to the cluster, and goes when it does not. The supervisor sees that.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
import sys
import threading
import time
import zlib
from typing import Any

LOOK_S = 3.0  # between two questions whether this node still belongs to the cluster
ANSWER_S = 3.0
LEASE_S = 40.0  # a node that Ray's head does not answer for so long is given up; Ray itself declares a mute one dead after 65 s
MUTE_S = 60.0  # another actor of the gang that answers nothing for so long is given up
AGAIN_S = 0.3
TELL_S = 10.0  # for an answer of another actor of the gang
VERBS = frozenset({"facts", "begin", "go", "stop", "signal", "watch", "clear", "publish", "follow"})
OF_TASKS = frozenset({"start_task", "kill_task", "fetch"})


class Holder:
    """What it is asked to do is the keeper's to do (`live.node.keeper`)."""

    def __init__(self, code: bytes, version: str, base: str | None, namespace: str, node: str, key: tuple[int, int],
                 part: int, parts: int) -> None:  # fmt: skip
        """`key`: job and attempt. `part` of `parts`: which node of the gang this is."""
        import ray

        os.umask(0o077)
        base = base or f"/var/tmp/trainmaster-{os.getuid()}"
        sys.path.insert(0, _unpack(base, version, code))
        from trainmaster.live.node.keeper import Keeper

        self.namespace, self.key = namespace, key
        self.others: dict[int, Any] = {}
        self.keeper = Keeper(f"{base}/{namespace}", node, *key, part, parts, self._tell, self._ask)
        self.gpus = [int(index) for index in ray.get_gpu_ids()]
        threading.Thread(target=_go_with_the_node, name="node", daemon=True).start()

    def do(self, verb: str, *arguments: Any) -> Any:
        import ray

        assert verb in VERBS | OF_TASKS
        answer = getattr(self.keeper.tasks if verb in OF_TASKS else self.keeper, verb)(*arguments)
        if verb == "facts":
            answer |= {"gpus": self.gpus, "address": ray.util.get_node_ip_address()}
        return answer

    def _tell(self, part: int, verb: str, what: Any) -> None:
        threading.Thread(target=self._tell_and_wait, args=(part, verb, what), daemon=True).start()

    def _tell_and_wait(self, part: int, verb: str, what: Any) -> None:
        import ray

        with contextlib.suppress(Exception):  # it is gone, or Ray is: the controller sees to that
            ray.get(self._other(part).do.remote(verb, what), timeout=TELL_S)

    def _ask(self, part: int, verb: str, *arguments: Any) -> Any:
        """What is asked may be asked twice. ConnectionError: it has gone, or has not answered for MUTE_S."""
        import ray
        from ray.exceptions import ActorDiedError, RayError

        until_s = time.monotonic() + MUTE_S
        while True:
            try:
                return ray.get(self._other(part).do.remote(verb, *arguments), timeout=TELL_S)
            except (RayError, ValueError, OSError) as error:  # ValueError: nobody has its name
                if isinstance(error, ActorDiedError) or time.monotonic() > until_s:
                    raise ConnectionError(f"it does not answer any more ({type(error).__name__})") from None
            time.sleep(AGAIN_S)

    def _other(self, part: int) -> Any:
        import ray

        if part not in self.others:
            self.others[part] = ray.get_actor(f"{self.key[0]}.{self.key[1]}.{part}", self.namespace)
        return self.others[part]


def _go_with_the_node() -> None:
    import ray
    from ray._raylet import NodeID

    raylet = os.getppid()
    node = NodeID.from_hex(ray.get_runtime_context().get_node_id())
    head = ray._private.worker.global_worker.gcs_client
    poll = select.poll()
    with contextlib.suppress(ProcessLookupError):
        poll.register(os.pidfd_open(raylet), select.POLLIN)
    heard_s = time.monotonic()
    while os.getppid() == raylet and not poll.poll(LOOK_S * 1e3):
        try:
            (belongs,) = head.check_alive([node], timeout=ANSWER_S)
        except Exception:
            belongs = time.monotonic() < heard_s + LEASE_S
        else:
            heard_s = time.monotonic()
        if not belongs:
            break
    os._exit(1)


def _unpack(base: str, version: str, code: bytes) -> str:
    """The folder with the code. In a place where others can write, nothing that is not ours is used."""
    with contextlib.suppress(FileExistsError):
        os.makedirs(base, mode=0o700)
    about = os.lstat(base)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise PermissionError(f"{base} is not a folder that only this user can write to")
    root = f"{base}/code/{version}"
    if not os.path.exists(root):
        draft = f"{base}/code/.{version}.{os.getpid()}"
        for name, text in json.loads(zlib.decompress(code)).items():
            os.makedirs(os.path.dirname(f"{draft}/{name}"), mode=0o700, exist_ok=True)
            with open(f"{draft}/{name}", "w", encoding="utf-8") as file:
                file.write(text)
        with contextlib.suppress(OSError):  # another was first
            os.rename(draft, root)
    return root
