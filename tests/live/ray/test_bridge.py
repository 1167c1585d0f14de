"""The bridge to Ray and its controller's end, without a cluster: what goes wrong beside Ray itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from trainmaster.live.backends import ray_bridge
from trainmaster.live.backends.ray import RayBackend
from trainmaster.live.backends.ray_bridge import Bridge, Gang, Part

pytestmark = pytest.mark.ray


def test_output_that_cannot_be_written_here_is_asked_for_again_and_does_not_end_the_bridge(tmp_path: Path) -> None:
    """On a full disk the bridge, and with it all jobs, would come and go."""
    gang: Any = Gang.__new__(Gang)
    gang.folder, gang._bound = str(tmp_path / "not-there"), lambda name: None
    part = Part(0, "n1", "id")
    said = {"logs": {"0": (0, b"text")}, "news": 3, "words": 1, "ready": True, "started_s": 5.0, "said": {}, "own": True, "end": None,
            "begun": True, "drained": True}  # fmt: skip

    assert not gang._take_in(part, said)
    assert (part.started_s, "cannot be written" in part.trouble, gang._offsets.__func__) == (5.0, True, Gang._offsets)

    (tmp_path / "not-there").mkdir()
    assert gang._take_in(part, said) and (tmp_path / "not-there" / "0.log").read_bytes() == b"text"


def test_what_is_left_of_an_earlier_controller_is_swept_once_ray_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge: Any = Bridge.__new__(Bridge)
    bridge.gangs, bridge.namespace = {}, "ours"
    answers: list[Any] = [TimeoutError(), [{"name": "7.1.0", "namespace": "ours"}, {"name": "7.1.0", "namespace": "theirs"}]]
    killed = []

    def actors(everywhere: bool) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ray_bridge.ray.util, "list_named_actors", actors)
    monkeypatch.setattr(ray_bridge.ray.util, "placement_group_table", dict)
    monkeypatch.setattr(ray_bridge.ray, "get_actor", lambda name, namespace: (name, namespace))
    monkeypatch.setattr(ray_bridge.ray, "kill", killed.append)

    assert [asyncio.run(bridge._sweep()), killed] == [False, []]
    assert [asyncio.run(bridge._sweep()), killed] == [True, [("7.1.0", "ours")]]


def test_a_bridge_that_does_not_read_is_replaced_before_it_hears_half_a_line(tmp_path: Path) -> None:
    backend = RayBackend(tmp_path, "127.0.0.1:1")
    deaf = subprocess.Popen(["sleep", "60"], stdin=subprocess.PIPE)
    assert deaf.stdin is not None
    os.set_blocking(deaf.stdin.fileno(), False)
    backend._bridge = deaf
    try:
        for job in range(10_000):
            backend._tell(start=(job, 1))
        assert deaf.wait(30) == -9
    finally:
        deaf.kill()
