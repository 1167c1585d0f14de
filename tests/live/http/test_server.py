"""The server on a real socket, and the client: where it may listen, what it leaves behind, how both end."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time

import httpx
import pytest

from live.backends.harness import wait_until
from live.http.fakes import Served
from trainmaster.errors import Conflict, Forbidden, InputError, NotFound, TrainmasterError
from trainmaster.live.client import Client, Unreachable
from trainmaster.live.http.server import Server, Tls, announced, keep_token
from trainmaster.live.http.service import Service
from trainmaster.live.states import State

SUBMIT = {"command": ["true"]}


@pytest.fixture
def up(tmp_path):
    """A controller's HTTP side as `up` starts it: (what is served, the state folder, its server)."""
    served, state = Served(tmp_path, own_app=True), tmp_path / "state"
    served.app.state.service = served.service
    server = Server(served.app)
    server.start()
    with announced(state, server.url, served.auth, "root"):
        yield served, state, server
    server.stop()


@pytest.fixture
def client(up):
    with Client.of_state(up[1]) as client:
        yield client


def test_the_client_finds_the_server_by_its_state_folder_and_is_its_admin(client):
    assert client.whoami() == {"user": "root", "role": "admin"}


def test_every_verb_reaches_the_controller(up, client):
    control = up[0].control
    assert client.submit(SUBMIT) == [1]
    assert client.submit_all([SUBMIT, {**SUBMIT, "array": {"indices": [0, 1]}}]) == [2, 3, 4]
    assert [job["id"] for job in client.jobs(ids=[1, 3], all=True)] == [1, 3]
    client.hold([1])
    assert client.job(1)["reason"] == "held"
    client.release([1])
    client.suspend([1])
    assert client.jobs(states=["SUSPENDED"])[0]["id"] == 1
    client.resume([1])
    assert client.update(1, priority=7.0)["priority"] == 7
    assert client.why(1)["place"] == 1
    control.run(1)
    client.signal(1, 10)
    assert client.shell(1) == ["/bin/sh", "-i"]
    client.requeue([1])
    assert client.spec(1)["command"] == ["true"]
    assert [tried["attempt"] for tried in client.attempts(1)] == [1]
    client.cancel([1, 2])
    assert client.wait(1)["state"] == "CANCELLED"
    assert client.wait(3, timeout_s=0.1)["state"] == "PENDING"
    events, after = client.events(1)
    assert (events[0]["kind"], after) == ("submitted", events[-1]["id"])
    client.drain("node-1", "memory errors")
    assert client.nodes()[0]["state"] == "drained"
    client.resume_node("node-1")
    assert client.queues()[0]["name"] == "default"
    assert client.set_policy("fifo")["name"] == client.policy()["name"] == client.status()["policy"] == "fifo"
    assert client.whatif([{"label": "as it is"}])["conclusion"] == "nothing changes"
    assert client.reload() == ["queues: research: quota_gpus 4 -> 6"]
    token = client.issue_token("ana", "viewer")
    assert [row["user"] for row in client.tokens()] == ["root", "ana"]
    client.revoke_token(token["id"])
    assert client.login_url().startswith(up[2].url + "/login?code=")


def test_what_is_refused_is_raised_as_what_it_was(up, client):
    client.submit(SUBMIT)
    up[0].control.end(1)

    with pytest.raises(NotFound, match=r"^no job 7$"):
        client.job(7)
    with pytest.raises(Conflict, match=r"^job 1 is SUCCEEDED: it cannot be cancelled$"):
        client.cancel([1])
    with pytest.raises(InputError, match=r"^gpu: Extra inputs are not permitted$"):
        client.submit({**SUBMIT, "gpu": 1})
    with Client(up[2].url, up[0].token("viewer")) as viewer, pytest.raises(Forbidden, match="a viewer may not do this"):
        viewer.submit(SUBMIT)
    with Client(up[2].url, "wrong") as stranger, pytest.raises(Forbidden, match="does not know this token"):
        stranger.jobs()


def test_a_log_is_streamed_as_it_is_written(up, client):
    control = up[0].control
    client.submit(SUBMIT)
    control.run(1)
    control.log(1, b"one\n")

    chunks = client.logs(1, follow=True)
    assert next(chunks) == b"one\n"
    control.log(1, b"two\n")
    assert next(chunks) == b"two\n"
    control.end(1)
    assert list(chunks) == []
    with pytest.raises(NotFound):
        client.logs(1, rank="9")


def test_a_follower_who_leaves_is_noticed_though_the_job_is_silent(up, client):
    served = up[0]
    client.submit(SUBMIT)
    served.control.run(1)
    served.control.log(1, b"one\n")
    chunks = client.logs(1, follow=True)
    next(chunks)
    assert served.service.streams.total() == 1

    chunks.close()

    wait_until(lambda: served.service.streams.total() == 0, 10)


def test_a_connection_that_the_server_has_closed_is_made_anew_and_a_submission_is_sent_once(up, client):
    client.submit(SUBMIT)
    client._connection.sock.shutdown(socket.SHUT_RDWR)

    assert client.submit(SUBMIT) == [2]
    assert len(up[0].control.records) == 2


def test_the_server_stops_at_once_with_followers_and_waiters(tmp_path, monkeypatch):
    monkeypatch.setattr("trainmaster.live.client.PATIENCE_S", 0.0)  # with a controller that is away
    served = Served(tmp_path, own_app=True)
    served.app.state.service = served.service
    server = Server(served.app)
    server.start()
    client = Client(server.url, served.token("admin"))
    client.submit(SUBMIT)
    served.control.run(1)
    served.control.log(1, b"one\n")
    chunks = client.logs(1, follow=True)
    next(chunks)
    states = []
    ask = {"url": server.url + "/api/v1/jobs/1/wait?timeout_s=60", "headers": {"authorization": f"Bearer {served.token('admin')}"}}
    waiter = threading.Thread(target=lambda: states.append(httpx.get(**ask, timeout=60).json()["state"]))
    waiter.start()
    while not served.service.watch.waited_for:
        time.sleep(0.01)

    server.stop()
    waiter.join(10)

    with pytest.raises(Unreachable):
        list(chunks)
    assert states == ["RUNNING"]
    with pytest.raises(TrainmasterError, match=r"is `trainmaster up` running\?"):
        client.status()


def test_who_waits_for_a_job_waits_through_a_restart_of_the_controller(tmp_path):
    served = Served(tmp_path, own_app=True)
    served.app.state.service = served.service
    first = Server(served.app)
    first.start()
    with Client(first.url, served.token("ana")) as client:
        client.submit(SUBMIT)
        states = []
        waiter = threading.Thread(target=lambda: states.append(client.wait(1)["state"]))
        waiter.start()
        while not served.service.watch.waited_for:
            time.sleep(0.01)
        first.stop()

        served.app.state.service = Service(served.control, served.auth, served.settings)
        second = Server(served.app, port=int(first.url.rpartition(":")[2]))
        second.start()
        served.control.end(1)
        waiter.join(20)
        second.stop()

    assert states == ["SUCCEEDED"]


def test_while_it_serves_the_state_folder_tells_where_and_afterwards_only_the_token_stays(tmp_path):
    served, state = Served(tmp_path), tmp_path / "state"

    with announced(state, "http://127.0.0.1:1", served.auth, "root"):
        assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in state.iterdir()} == {"address": 0o600, "token": 0o600}
        token = (state / "token").read_text()
    assert [file.name for file in state.iterdir()] == ["token"]

    with announced(state, "http://127.0.0.1:1", served.auth, "root"):
        assert (state / "token").read_text() == token


@pytest.mark.parametrize("found", ["", "wrong", "\udcff", "tm_" + "x" * 9_999])
def test_a_token_file_that_does_not_work_is_replaced(tmp_path, found):
    served = Served(tmp_path)
    (tmp_path / "token").write_bytes(os.fsencode(found))

    keep_token(tmp_path, served.auth, "root")

    assert served.auth.who((tmp_path / "token").read_text().strip()).role.administers
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600


def test_without_a_controller_one_line_says_how_to_start_one(tmp_path):
    with pytest.raises(TrainmasterError, match=r"no controller has been started there \(trainmaster up\)"):
        Client.of_state(tmp_path)
    with pytest.raises(InputError, match="not the address of a controller"):
        Client("localhost:80", "x")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_beyond_loopback_it_insists_on_tls_or_on_insecure(tmp_path, host):
    with pytest.raises(InputError, match=r"it takes TLS .* or --insecure"):
        Server(Served(tmp_path).app, host=host)


def test_insecure_is_taken_at_its_word(tmp_path):
    server = Server(Served(tmp_path).app, host="0.0.0.0", insecure=True)
    assert server.url.startswith("http://0.0.0.0:")
    server.close()


def test_a_port_that_is_taken_is_said_so(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="in use"):
        Server(Served(tmp_path).app, port=taken.getsockname()[1])


def test_a_certificate_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(InputError, match=r"absent.pem: cannot be read"):
        Server(Served(tmp_path).app, tls=Tls(tmp_path / "absent.pem", tmp_path / "absent.key"))


def test_a_certificate_that_is_none_stops_the_start_with_one_line(tmp_path):
    (tmp_path / "x.pem").write_text("nonsense")
    with pytest.raises(InputError, match=r"x.pem: not a certificate"):
        Server(Served(tmp_path).app, tls=Tls(tmp_path / "x.pem", tmp_path / "x.pem"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_by_tls_a_client_of_the_state_folder_trusts_its_certificate_and_others_do_not(tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    served, tls = Served(tmp_path, own_app=True), Tls(certificate, key)
    served.app.state.service = served.service
    server = Server(served.app, tls=tls)
    server.start()
    try:
        with announced(tmp_path / "state", server.url, served.auth, "root", tls):
            with Client.of_state(tmp_path / "state") as client:
                assert client.whoami()["user"] == "root"
            with Client(server.url, served.token("ana")) as stranger, pytest.raises(TrainmasterError, match="certificate"):
                stranger.whoami()
    finally:
        server.stop()


def test_the_client_brings_neither_pydantic_nor_httpx():
    code = "import sys, trainmaster.live.client; print([name for name in ('pydantic', 'httpx', 'fastapi', 'numpy') if name in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_many_clients_at_once_submit_and_nothing_is_lost_or_doubled(up):
    served, _, server = up

    def submit(name: str) -> None:
        with Client(server.url, served.token(name)) as client:
            for _ in range(25):
                client.submit(SUBMIT)

    users = [f"user-{number}" for number in range(8)]
    tokens = [served.token(name) for name in users]
    threads = [threading.Thread(target=submit, args=(name,)) for name in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(tokens)) == len(users)
    assert sorted(served.control.records) == list(range(1, 201))
    assert {name: sum(record.user == name for record in served.control.records.values()) for name in users} == dict.fromkeys(users, 25)
    assert {record.state for record in served.control.records.values()} == {State.PENDING}
