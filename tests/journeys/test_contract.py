"""The API as its own document describes it, asked of a live service.

Whatever fits the document is answered as it says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from httpx2 import Client
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import definitions
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from notifier.domain import keys
from notifier.services import Services
from notifier.settings import Settings
from tests.journeys.test_web import served

LIST = (
    "Mã số thuế,Tên người nộp thuế,Thư điện tử\n"
    "0100109106,Công ty TNHH Ban Mai,ketoan@banmai.example.test\n"
)
CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 12


@pytest.fixture
def site(settings: Settings) -> Iterator[str]:
    """A live service."""
    with served(settings) as found:
        yield found


@pytest.fixture
def header(services: Services) -> dict[str, str]:
    """What a key of all scopes sends."""
    with services.engine.begin() as connection:
        token = keys.create(
            connection, name="portal", scopes=keys.SCOPES, sandbox=False, now=datetime.now(UTC)
        )
    return {"Authorization": f"Bearer {token}"}


def failures(
    operation: APIOperation[Any, Any, Any, Any],
    mode: GenerationMode,
    site: str,
    header: dict[str, str],
) -> list[str]:
    """Ask for an operation in many ways.

    Return what was answered otherwise than the document says.
    """
    checks = list(CHECKS)
    # A batch is taken although events in it are bad: each is answered by itself.
    if mode is GenerationMode.NEGATIVE and not operation.label.endswith("/batch"):
        checks.append(negative_data_rejection)

    @examples(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(mode))
    def ask(case: Case[Any]) -> None:
        case.call_and_validate(base_url=site, headers=header, checks=checks)

    try:
        ask()
    except BaseExceptionGroup as error:
        return [f"{operation.label}: {each}" for each in error.exceptions]
    return []


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_answers_are_as_the_document_says(
    site: str, header: dict[str, str], mode: GenerationMode
) -> None:
    # The header that we send takes the place of any other, so a bad one would never arrive.
    config = schemathesis.Config.from_dict({"generation": {"with-security-parameters": False}})
    schema = schemathesis.openapi.from_url(f"{site}/api/openapi.json", config=config)
    listed = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(listed) > 15
    if mode is GenerationMode.NEGATIVE:
        listed = [
            each
            for each in listed
            if any(body.media_type == "application/json" for body in each.body)
        ]
        assert len(listed) > 5
    found = [failure for each in listed for failure in failures(each, mode, site, header)]
    assert not found, "\n\n".join(found)


def sent(operation: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a request that its operation shows as an example."""
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        return {"json": content["application/json"]["example"]}
    if content:
        return {"content": LIST.encode(), "headers": {"Content-Type": next(iter(content))}}
    return {}


# A campaign takes its steps in this order; all other operations come in that of the document.
STEPS = [
    "createCampaign",
    "listCampaigns",
    "editCampaign",
    "attachList",
    "checkCampaign",
    "launchCampaign",
    "getCampaign",
    "pauseCampaign",
    "resumeCampaign",
    "cancelCampaign",
    "reportCampaign",
    "deleteCampaign",
]


def test_every_example_is_accepted(site: str, header: dict[str, str]) -> None:
    with Client(base_url=site, headers=header) as client:
        document = client.get("/api/openapi.json").json()
        listed = [
            (path, method, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]
        assert {each["operationId"] for _, _, each in listed} >= set(STEPS)
        listed.sort(
            key=lambda each: (
                STEPS.index(each[2]["operationId"]) if each[2]["operationId"] in STEPS else -1
            )
        )
        create = document["paths"]["/api/v1/campaigns"]["post"]
        example = sent(create)["json"]
        name = example["name"]
        numbers: list[str] = []
        seen: list[str] = []
        for path, method, operation in listed:
            if operation["operationId"] == "deleteCampaign":
                # The first one was launched, and only a draft can be deleted.
                name = "another"
                client.post("/api/v1/campaigns", json={**example, "name": name})
            here = path.replace("{name}", name)
            if "{id}" in here:
                here = here.replace("{id}", numbers[0])
            answer = client.request(method.upper(), here, **sent(operation))
            assert str(answer.status_code) in operation["responses"], (path, answer.text)
            assert answer.is_success, (path, answer.text)
            seen.append(operation["operationId"])
            shown = operation["responses"][str(answer.status_code)].get("content", {})
            if answer.status_code == 204:
                assert (shown, answer.content) == ({}, b"")
                continue
            assert answer.headers["content-type"].partition(";")[0] in shown
            if operation["operationId"] == "sendMessage":
                numbers.append(answer.json()["id"])
            if operation["operationId"] == "createCampaign":
                assert answer.json()["name"] == name
        assert len(seen) == len(set(seen)) > 15
        left = client.get("/api/v1/campaigns").json()["campaigns"]
        assert [(each["name"], each["state"]) for each in left] == [(example["name"], "cancelled")]


def test_every_problem_that_is_described_is_problem_details(site: str) -> None:
    with Client(base_url=site) as client:
        document = client.get("/api/openapi.json").json()
    text = json.dumps(document)
    assert document["openapi"].startswith("3.1.")
    assert [str(each) for each in definitions.OPENAPI_31_VALIDATOR.iter_errors(document)] == []
    for methods in document["paths"].values():
        for operation in methods.values():
            assert {"401", "403", "429", "503"} <= set(operation["responses"])
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
    for ref in {part.split('"')[0] for part in text.split('"$ref": "#/components/schemas/')[1:]}:
        assert ref in document["components"]["schemas"]
