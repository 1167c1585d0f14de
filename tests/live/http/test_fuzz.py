"""Requests that Schemathesis makes up from the OpenAPI document: no 5xx, no answer that the document does not promise."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
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
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
QUIET = [HealthCheck.filter_too_much, HealthCheck.too_slow]
FEW = settings(max_examples=8, derandomize=True, suppress_health_check=QUIET, phases=[Phase.explicit, Phase.generate], database=None)
MANY = settings(max_examples=150, suppress_health_check=QUIET, database=None)

for number in range(3):  # some requests find something
    SERVED.submit("admin", name=f"job-{number}")
SERVED.control.run(1)
SERVED.control.log(1, b"hello\n")
SERVED.service.stop()  # nobody follows a log for ever


DOCUMENT = schemathesis.openapi.from_asgi(f"{API}/openapi.json", SERVED.app, headers=HEADERS)
DOCUMENT.config.phases.coverage.enabled = False  # a case for every keyword of every schema: several thousand, made when tests are collected
TOLD = DOCUMENT.exclude(path_regex="/wait$")  # that would wait


@TOLD.parametrize()
@FEW
def test_no_request_breaks_the_server_and_every_answer_is_as_documented(case):
    case.call_and_validate(headers=HEADERS, checks=CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as documented", "against the document"])
def test_no_request_of_very_many_breaks_the_server(mode):
    for operation in TOLD.get_all_operations():

        @MANY
        @given(case=operation.ok().as_strategy(generation_mode=mode))
        def check(case):
            case.call_and_validate(headers=HEADERS, checks=CHECKS)

        try:
            check()
        except Unsatisfiable:  # GET /queues and the like take nothing that could be wrong
            assert mode is GenerationMode.NEGATIVE
