"""What-ifs of people who are not trusted, against a real controller: any token may ask for one."""

from __future__ import annotations

from pathlib import Path

import httpx
from fastapi.testclient import TestClient

from live.http.fakes import API
from live.http.test_fuzz_for_real import Site, site  # noqa: F401
from trainmaster.live.http.auth import Role


def as_(site: Site, user: str, role: Role = Role.USER) -> httpx.Client:  # noqa: F811
    headers = {"Authorization": f"Bearer {site.auth.issue(user, role, 'test')[1]}", "Host": "localhost"}
    return TestClient(site.app, base_url="http://localhost", headers=headers)


def submit(client: httpx.Client, folder: Path) -> None:
    assert client.post(f"{API}/jobs", json={"command": ["sleep", "100"], "workdir": str(folder), "hold": False}).status_code == 201


def test_nodes_that_are_added_are_no_file_of_the_controllers(site: Site, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "secret.yaml").write_text("hunter2: x\n")
    eve = as_(site, "eve")
    submit(eve, tmp_path)
    for named in (str(tmp_path / "secret.yaml"), "/etc/passwd", "/dev/zero", "/not/there"):
        answer = eve.post(f"{API}/whatif", json={"scenarios": [{"label": "x", "add_nodes": named}]})
        assert answer.status_code == 422 and "is not NODESxGPUS" in answer.text and "hunter2" not in answer.text
    assert eve.post(f"{API}/whatif", json={"scenarios": [{"label": "x", "add_nodes": "2x2"}]}).status_code == 200


def test_who_else_has_jobs_is_told_to_those_who_may_see_them(site: Site, tmp_path: Path) -> None:  # noqa: F811
    for user in ("ada", "eve"):
        submit(as_(site, user), tmp_path)
    ask = {"scenarios": [{"label": "x", "policy": "fifo"}]}

    def tenants(client: httpx.Client) -> list[set[str]]:
        return [set(run["by_tenant"]) for run in client.post(f"{API}/whatif", json=ask).json()["runs"]]

    assert tenants(as_(site, "eve")) == [{"eve"}, {"eve"}]
    assert tenants(as_(site, "olga", Role.OPERATOR)) == [{"ada", "eve"}, {"ada", "eve"}]
