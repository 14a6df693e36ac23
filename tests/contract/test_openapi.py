"""The OpenAPI document: every call has an example, and says what can go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from usageledger.gateway.app import bare_app
from usageledger.gateway.problems import MEDIA_TYPE, PROBLEMS

DOCUMENT: dict[str, Any] = bare_app().openapi()


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in sorted(DOCUMENT["paths"].items()):
        for method, operation in sorted(methods.items()):
            yield f"{method.upper()} {path}", operation


OPERATIONS = dict(operations())


def test_the_document_has_operations() -> None:
    assert len(OPERATIONS) > 3
    assert all(path.startswith("/v1/") for path in DOCUMENT["paths"])


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_call_has_an_example_that_its_schema_accepts(name: str) -> None:
    operation = OPERATIONS[name]
    contents = [("the request", media) for media in _media(operation.get("requestBody", {}))]
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            contents += [(f"the answer {status}", media) for media in _media(response)]
    for what, (media_type, media) in contents:
        examples = _examples(media)
        assert examples, f"{name}: {what} has no example"
        if "json" in media_type:
            for example in examples:
                jsonschema.validate(
                    example, {**media["schema"], "components": DOCUMENT["components"]}
                )


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_call_says_in_words_what_it_does_and_which_problems_it_answers_with(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["description"].strip().endswith((".", "`")), f"{name} is not described"
    failures = {
        status: response for status, response in operation["responses"].items() if status[0] in "45"
    }
    assert {"401", "403", "429"} <= failures.keys()
    assert all(MEDIA_TYPE in response["content"] for response in failures.values())
    assert operation["security"] == [{"key": []}]


def test_each_parameter_of_a_path_has_an_example() -> None:
    bare = [
        f"{name}: {parameter['name']}"
        for name, operation in OPERATIONS.items()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "path"
        and not (parameter.get("example") or parameter.get("schema", {}).get("examples"))
    ]
    assert bare == []


def test_each_problem_has_a_status_of_an_error_and_a_title() -> None:
    assert all(400 <= status < 600 and title for status, title in PROBLEMS.values())


def _media(part: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(part.get("content", {}).items())


def _examples(media: dict[str, Any]) -> list[Any]:
    """The examples of the medium, or otherwise of its schema."""
    if "example" in media:
        return [media["example"]]
    if "examples" in media:
        return [example["value"] for example in media["examples"].values()]
    schema = media["schema"]
    while "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return list(schema.get("examples", ()))
