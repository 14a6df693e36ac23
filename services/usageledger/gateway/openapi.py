"""The gateway's OpenAPI document: FastAPI's, with problem details for its validation errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from usageledger.contracts.descriptions import with_joined_lines
from usageledger.gateway.problems import ProblemDetails

_FASTAPIS_OWN = ("HTTPValidationError", "ValidationError")


def openapi_document(app: FastAPI) -> dict[str, Any]:
    """The document of an app, as JSON values."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _FASTAPIS_OWN:
        schemas.pop(name, None)
    problem = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
    # FastAPI drops null values from examples, and then they do not match their schemas.
    for name, examples in _examples_of_models().items():
        if name in schemas:
            schemas[name]["examples"] = examples
    document["components"]["schemas"] = dict(
        sorted((schemas | problem.pop("$defs", {}) | {"ProblemDetails": problem}).items())
    )
    joined: dict[str, Any] = with_joined_lines(document)
    return joined


def _examples_of_models() -> dict[str, Any]:
    """The examples that this package's models declare, by the model's name."""
    found: dict[str, Any] = {}
    waiting = list(BaseModel.__subclasses__())
    while waiting:
        model = waiting.pop()
        waiting += model.__subclasses__()
        stated = model.model_config.get("json_schema_extra")
        if (
            model.__module__.startswith(__package__)
            and isinstance(stated, dict)
            and "examples" in stated
        ):
            found[model.__name__] = stated["examples"]
    return found
