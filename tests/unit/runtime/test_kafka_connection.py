"""`KafkaConnection`: what fits together, what is refused, and files that change."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from kafka.net.sasl import get_sasl_mechanism

from tests.worlds.certificates import Authority
from usageledger.log.aiokafka_clients import new_admin
from usageledger.runtime.kafka_connection import KafkaConnection, KafkaConnectionError

SERVERS = "a:9092, b:9092"


def described(**variables: str) -> KafkaConnection:
    return KafkaConnection.from_environment(
        environment={
            "USAGELEDGER_KAFKA": SERVERS,
            **{f"USAGELEDGER_KAFKA_{name}": value for name, value in variables.items()},
        }
    )


def scram(**more: str) -> dict[str, str]:
    return {
        "SECURITY_PROTOCOL": "SASL_SSL",
        "SASL_MECHANISM": "SCRAM-SHA-512",
        "SASL_USERNAME": "gateway",
        **more,
    }


def test_addresses_alone_are_a_connection_without_security() -> None:
    plain = described()
    assert plain.for_kafka_python() == {
        "bootstrap_servers": ["a:9092", "b:9092"],
        "security_protocol": "PLAINTEXT",
        "ssl_context": None,
    }
    assert str(plain) == SERVERS


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"SECURITY_PROTOCOL": "TLS"}, "SECURITY_PROTOCOL is one of PLAINTEXT, SSL"),
        ({"SASL_USERNAME": "gateway"}, "send neither: set USAGELEDGER_KAFKA_SECURITY_PROTOCOL"),
        ({"SSL_CAFILE": "/ca.pem"}, "not encrypted: set USAGELEDGER_KAFKA_SECURITY_PROTOCOL"),
        ({"SECURITY_PROTOCOL": "SASL_SSL"}, "SASL_MECHANISM is one of PLAIN"),
        (scram(), "needs one password: set USAGELEDGER_KAFKA_SASL_PASSWORD_FILE"),
        (
            scram(SASL_PASSWORD="s", SASL_PASSWORD_FILE="/p"),
            "needs one password",
        ),
        (scram(SASL_USERNAME="", SASL_PASSWORD="s"), "needs a user name"),
        (scram(SASL_MECHANISM="OAUTHBEARER"), "OAUTHBEARER needs one source of tokens"),
        ({"SECURITY_PROTOCOL": "SSL", "SSL_CERTFILE": "/c.pem"}, "its key belong together"),
    ],
)
def test_settings_that_do_not_fit_are_refused(variables: dict[str, str], problem: str) -> None:
    with pytest.raises(KafkaConnectionError, match=problem):
        described(**variables)


def test_no_address_is_refused_naming_the_variable() -> None:
    with pytest.raises(KafkaConnectionError, match="USAGELEDGER_KAFKA"):
        KafkaConnection.from_environment(environment={})


def test_a_password_is_neither_shown_nor_written_down() -> None:
    secured = described(**scram(SASL_PASSWORD="open-sesame"))
    assert "open-sesame" not in repr(secured) + str(secured) + str(secured.as_json())


def test_a_connection_comes_back_from_what_is_written_down_and_the_environment() -> None:
    secured = described(**scram(SASL_PASSWORD="open-sesame"))
    variables = secured.as_environment()
    assert KafkaConnection.from_environment(environment=variables) == secured
    assert KafkaConnection.from_json(secured.as_json(), environment=variables) == secured


def test_a_child_process_does_not_inherit_settings_of_another_kafka() -> None:
    inherited = described(**scram(SASL_PASSWORD="open-sesame")).as_environment()
    own = KafkaConnection(servers="127.0.0.1:9092")
    assert KafkaConnection.from_environment(environment=inherited | own.as_environment()) == own


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_each_connection_reads_the_password_file_anew(mechanism: str, tmp_path: Path) -> None:
    """A rotated password was used only after a restart."""
    file = tmp_path / "password"
    file.write_text("first\n", encoding="utf-8")
    secured = described(**scram(SASL_MECHANISM=mechanism, SASL_PASSWORD_FILE=str(file)))
    options = secured.for_kafka_python()
    file.write_text("second\n", encoding="utf-8")
    client = get_sasl_mechanism(mechanism)(host="a", **options)
    found = client.password if mechanism == "PLAIN" else client._scram_client.password.decode()
    assert found == "second"


def test_aiokafka_reads_the_password_file_anew_as_well(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n", encoding="utf-8")
    authority = Authority(tmp_path)
    secured = described(
        **scram(SASL_PASSWORD_FILE=str(file), SSL_CAFILE=str(authority.certificate))
    )

    async def make_admin() -> Any:
        return new_admin(secured)

    admin = asyncio.run(make_admin())
    file.write_text("second\n", encoding="utf-8")
    assert admin._client._sasl_plain_password == "second"


@pytest.mark.parametrize("content", [None, ""])
def test_a_password_file_that_holds_none_is_named(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    secured = described(**scram(SASL_PASSWORD_FILE=str(file)))
    with pytest.raises(KafkaConnectionError, match=str(file)):
        secured.password()


def test_a_missing_certificate_is_named_when_a_client_is_made(tmp_path: Path) -> None:
    secured = described(SECURITY_PROTOCOL="SSL", SSL_CAFILE=str(tmp_path / "ca.pem"))
    with pytest.raises(KafkaConnectionError, match=r"ca\.pem"):
        secured.for_kafka_python()


def test_a_certificate_that_was_renewed_is_used_by_the_next_connection(tmp_path: Path) -> None:
    """The client connects with its old certificate first, and with the new one later."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("gateway")
    secured = described(
        SECURITY_PROTOCOL="SSL",
        SSL_CAFILE=str(authority.certificate),
        SSL_CERTFILE=str(certificate),
        SSL_KEYFILE=str(key),
    )
    context = secured.tls_context()
    assert context is not None
    first = authority.serial_of_client(context)
    authority.issue("gateway")
    assert authority.serial_of_client(context) != first


def test_a_broker_with_another_name_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    secured = described(SECURITY_PROTOCOL="SSL", SSL_CAFILE=str(authority.certificate))
    context = secured.tls_context()
    assert context is not None
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        authority.serial_of_client(context, server="elsewhere")
