"""Requests that Schemathesis makes up from the OpenAPI document: no 5xx, no answer that the document does not promise."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from live.http.fakes import API, Served
from trainmaster.live.http.settings import Settings

SERVED = Served(Path(tempfile.mkdtemp(prefix="trainmaster-")), Settings(token_rate=1e9, address_rate=1e9), own_app=True)
HEADERS = {"Authorization": f"Bearer {SERVED.token('admin')}", "Host": "localhost"}
SERVED.as_("admin")
DOCUMENT = schemathesis.openapi.from_asgi(f"{API}/openapi.json", SERVED.app, headers=HEADERS)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
QUIET = [HealthCheck.filter_too_much, HealthCheck.too_slow]
IN_THE_PATH = DOCUMENT.exclude(path_regex="/wait$")  # it would wait
FEW = settings(max_examples=6, derandomize=True, suppress_health_check=QUIET, phases=[Phase.explicit, Phase.generate], database=None)
MANY = settings(max_examples=300, suppress_health_check=QUIET, database=None)

for number in range(3):  # some requests find something
    SERVED.submit("admin", name=f"job-{number}")
SERVED.control.run(1)
SERVED.control.log(1, b"hello\n")
SERVED.service.stopping.set()  # nobody follows a log for ever


@IN_THE_PATH.parametrize()
@FEW
def test_no_request_breaks_the_server_and_every_answer_is_as_documented(case):
    case.call_and_validate(headers=HEADERS, checks=CHECKS)


@pytest.mark.slow
@IN_THE_PATH.parametrize()
@MANY
def test_no_request_of_very_many_breaks_the_server(case):
    case.call_and_validate(headers=HEADERS, checks=CHECKS)
