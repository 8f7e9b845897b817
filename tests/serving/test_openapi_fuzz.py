"""schemathesis over the OpenAPI document: requests made from it, valid and invalid, alone and in sequences.

No answer is a 5xx; status, content type, headers and content of each are as the document says.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from palate.serving.app import create_app
from palate.serving.settings import Settings

schemathesis = pytest.importorskip("schemathesis", reason="pip install 'palate[test]'")

KNOWN_IDS = {"user_id": [3, 4, 5, 9001], "item_id": [101, 102, 107]}
LIMITS = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(scope="module")
def app(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("fuzzed")
    kept = Settings(store=f"sqlite:///{folder}/feedback.db", log="off", max_waiting=1000)
    found = create_app([runs["ease"], runs["mf"], runs["content-knn"]], kept)
    yield found
    found.state.service.close()


@pytest.fixture(scope="module")
def document(app: Any) -> dict[str, Any]:
    """The document, in which ids are often those of users and items that exist."""
    found = copy.deepcopy(app.openapi())

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for one in node:
                walk(one)
        elif isinstance(node, dict):
            for name, ids in KNOWN_IDS.items():
                if name in node.get("properties", {}):
                    node["properties"][name] = {"anyOf": [{"enum": ids}, node["properties"][name]]}
                if node.get("name") == name and node.get("in") == "path":
                    texts = {"enum": [str(one) for one in ids]}
                    node["schema"] = {"anyOf": [texts, {"type": "string", "minLength": 1}]}
            for one in node.values():
                walk(one)

    requests = [f"{name}Request" for name in ("Recommend", "Rank", "Predict", "Explain", "Feedback", "Undo")]
    for name in [*requests, "FeedbackEntry", "Pair"]:
        walk(found["components"]["schemas"][name])
    walk(found["paths"])
    return found


@pytest.fixture
def schema(app: Any, document: dict[str, Any]) -> Any:
    async def always_up(scope: Any, receive: Any, send: Any) -> None:
        """The application without its lifespan: schemathesis starts and stops it with each request."""
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    loaded = schemathesis.openapi.from_dict(document)
    loaded.app = always_up
    return loaded


def checks() -> list[Any]:
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks as of_openapi

    names = ["status_code", "content_type", "response_headers", "response_schema"]
    return [not_a_server_error, *(getattr(of_openapi, f"{name}_conformance") for name in names)]


def test_requests_made_from_the_document(schema: Any, subtests: Any) -> None:
    for operation in (found.ok() for found in schema.get_all_operations()):
        with subtests.test(operation.label), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of schemathesis' own libraries

            @LIMITS
            @given(case=operation.as_strategy())
            def send(case: Any) -> None:
                case.call_and_validate(checks=checks())

            send()


def test_sequences_of_requests(schema: Any) -> None:
    """Feedback is given, listed, explained, undone and forgotten in any order, along the document's links."""
    machine = schema.as_state_machine()
    machine.validate_response = lambda self, response, case, **_: case.validate_response(response, checks=checks())
    machine.TestCase.settings = settings(LIMITS, max_examples=15, stateful_step_count=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        machine.run(settings=machine.TestCase.settings)
