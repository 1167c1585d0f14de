"""What is said when Ray is not where `--address` says."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from trainmaster.errors import BackendError, InputError
from trainmaster.live.backends import ray as backend
from trainmaster.live.backends.ray import RayBackend


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:", ":6379", "head:port"])
def test_an_address_is_that_of_the_head(address: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="HOST:PORT"):
        RayBackend(tmp_path, address)


def test_ray_must_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"trainmaster\[ray\]"):
        RayBackend(tmp_path, "head:6379")


@pytest.mark.slow
@pytest.mark.ray
def test_a_head_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    made = RayBackend(tmp_path, address)
    with pytest.raises(BackendError, match=f"{address}: .*refused"):
        made.open(lambda: None)
