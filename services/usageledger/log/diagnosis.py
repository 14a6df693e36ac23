"""Why no connection to Kafka can be made, in one line.

Kafka libraries say the same for a dead broker, an unknown authority and a wrong password. So this
goes the same way once more, step by step: the address, TLS, the listener's kind, the user. It needs
kafka-python alone, and runs where a connection has failed or somebody asks.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from usageledger.runtime.kafka_connection import (
    SERVERS_VARIABLE,
    KafkaConnection,
    KafkaConnectionError,
)

with warnings.catch_warnings():
    # kafka-python reads its message schemas by a call that Python 3.11 and 3.12 deprecate.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.errors import IllegalSaslStateError, KafkaError, UnsupportedSaslMechanismError
    from kafka.net.sasl import get_sasl_mechanism
    from kafka.protocol.parser import KafkaProtocol
    from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

CONNECT_TIMEOUT_S = 3.0
ANSWER_TIMEOUT_S = 10.0
ASK_AGAIN_AFTER_S = 10.0
_ANSWER_BYTES_MAX = 64 * 1024
# OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_OTHER_NAME = (62, 64)


def connection_problem(kafka: KafkaConnection) -> str | None:
    """The obstacle to a connection, with the remedy; None if there is none.

    One address that works is enough. Takes some seconds where nothing answers.
    """
    unanswered, refused = [], []
    for address in kafka.addresses:
        try:
            _connected(address).close()
        except (OSError, ValueError, OverflowError) as error:
            unanswered.append(f"{address} ({error})")
            continue
        problem = _problem_at(kafka, address)
        if problem is None:
            return None
        refused.append(problem)
    if refused:
        return refused[0]
    return (
        f"no Kafka broker answers at {', '.join(unanswered)}: check the address, and see "
        "`usageledger status` for whether it runs"
    )


class LastProblem:
    """The `connection_problem` as it was some seconds ago at most. Threads may share it."""

    def __init__(self, kafka: KafkaConnection, *, again_after_s: float = ASK_AGAIN_AFTER_S) -> None:
        self._kafka = kafka
        self._again_after_s = again_after_s
        self._asking = threading.Lock()
        self._asked_s = float("-inf")
        self._problem: str | None = None

    def __call__(self) -> str | None:
        with self._asking:
            if time.monotonic() - self._asked_s >= self._again_after_s:
                self._problem = connection_problem(self._kafka)
                self._asked_s = time.monotonic()
            return self._problem


@contextmanager
def named_cause(kafka: KafkaConnection) -> Iterator[None]:
    """Have a kafka-python client that is made in this context say why it cannot connect.

    The error keeps its class, which says whether a later attempt can succeed.
    """
    try:
        yield
    except KafkaError as error:
        problem = connection_problem(kafka)
        if problem is None:
            raise
        raise type(error)(problem) from error


@dataclass(frozen=True, slots=True)
class _Channel:
    """One connection on which one request follows the other."""

    connection: socket.socket
    protocol: Any

    def answer(self, request: Any) -> Any:
        """Raises OSError, EOFError, and KafkaError for an answer in another protocol."""
        self.protocol.send_request(request)
        self.connection.sendall(self.protocol.send_bytes())
        while True:
            data = self.connection.recv(_ANSWER_BYTES_MAX)
            if not data:
                raise EOFError("it closes the connection")
            for _, response in self.protocol.receive_bytes(data):
                return response


def _problem_at(kafka: KafkaConnection, address: str) -> str | None:
    """The obstacle at an address that accepts connections; None if there is none."""
    try:
        context = kafka.tls_context()
        with _channel(address, context) as channel:
            return _listener_problem(kafka, address, channel) or _user_problem(
                kafka, address, channel
            )
    except KafkaConnectionError as error:
        return str(error)
    except ssl.SSLCertVerificationError as error:
        return _certificate_problem(address, error)
    except (OSError, EOFError, KafkaError) as error:
        return _no_answer(kafka, address, error)


@contextmanager
def _channel(address: str, context: ssl.SSLContext | None) -> Iterator[_Channel]:
    protocol = KafkaProtocol(client_id="usageledger", receive_message_max_bytes=_ANSWER_BYTES_MAX)
    with _connected(address) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        if context is None:
            yield _Channel(connection, protocol)
            return
        with context.wrap_socket(connection, server_hostname=_host_and_port(address)[0]) as secret:
            yield _Channel(secret, protocol)


def _connected(address: str) -> socket.socket:
    return socket.create_connection(_host_and_port(address), CONNECT_TIMEOUT_S)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _listener_problem(kafka: KafkaConnection, address: str, channel: _Channel) -> str | None:
    """How the listener differs from the settings in whether it asks for a user, and by what."""
    answer = _mechanisms(channel, kafka.sasl_mechanism)
    asks_for_user = answer.error_code != IllegalSaslStateError.errno
    offered = " or ".join(answer.mechanisms)
    if asks_for_user and not kafka.is_authenticated:
        return (
            f"the broker at {address} asks for a user: set {SERVERS_VARIABLE}_SECURITY_PROTOCOL to "
            f"{'SASL_SSL' if kafka.is_encrypted else 'SASL_PLAINTEXT'}, and "
            f"{SERVERS_VARIABLE}_SASL_MECHANISM to {offered}"
        )
    if kafka.is_authenticated and not asks_for_user:
        return (
            f"the broker at {address} asks for no user: set {SERVERS_VARIABLE}_SECURITY_PROTOCOL "
            f"to {'SSL' if kafka.is_encrypted else 'PLAINTEXT'}"
        )
    if kafka.is_authenticated and answer.error_code == UnsupportedSaslMechanismError.errno:
        return (
            f"the broker at {address} does not offer {kafka.sasl_mechanism}: set "
            f"{SERVERS_VARIABLE}_SASL_MECHANISM to {offered}"
        )
    return None


def _mechanisms(channel: _Channel, mechanism: str | None) -> Any:
    return channel.answer(SaslHandshakeRequest(mechanism=mechanism or "PLAIN", version=1))


def _user_problem(kafka: KafkaConnection, address: str, channel: _Channel) -> str | None:
    """Why the broker refuses the user, in its own words."""
    if not kafka.is_authenticated:
        return None
    options = kafka.for_kafka_python()
    mechanism = get_sasl_mechanism(kafka.sasl_mechanism)(host=_host_and_port(address)[0], **options)
    while not mechanism.is_done():
        try:
            token = mechanism.auth_bytes()
        except KafkaConnectionError:
            raise
        except Exception as error:  # noqa: BLE001 - an app's own callable gives the token
            return f"there is no token for Kafka ({type(error).__name__}: {error})"
        answer = channel.answer(SaslAuthenticateRequest(auth_bytes=token, version=1))
        if answer.error_code:
            return _refused(kafka, address, answer.error_message)
        try:
            mechanism.receive(answer.auth_bytes)
        except ValueError as error:
            return _refused(kafka, address, str(error))
    return None


def _refused(kafka: KafkaConnection, address: str, why: str) -> str:
    if kafka.sasl_mechanism == "OAUTHBEARER":
        return (
            f"the broker at {address} refuses the token ({why}): check its issuer, its audience "
            "and when it ends"
        )
    return (
        f"the broker at {address} refuses the user {kafka.sasl_username} or its password ({why}): "
        f"check {SERVERS_VARIABLE}_SASL_USERNAME and {SERVERS_VARIABLE}_SASL_PASSWORD_FILE"
    )


def _certificate_problem(address: str, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _OTHER_NAME:
        return (
            f"the broker at {address} shows a certificate of another name ({error.verify_message}):"
            f" give {SERVERS_VARIABLE} an address that is in the certificate"
        )
    return (
        f"the certificate of the broker at {address} is not trusted ({error.verify_message}): "
        f"{SERVERS_VARIABLE}_SSL_CAFILE names the authority that issued it"
    )


def _no_answer(kafka: KafkaConnection, address: str, error: Exception) -> str:
    """The line for a connection that ends before Kafka has answered."""
    reason = getattr(error, "reason", None) or str(error)
    if isinstance(error, ssl.SSLError) and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return _refused_certificate(kafka, address, reason)
    # A listener of the other kind closes the connection. It does not keep silent.
    is_silent = isinstance(error, TimeoutError)
    if kafka.is_encrypted and not is_silent and _answers_unencrypted(address):
        return (
            f"the broker at {address} does not use TLS: set {SERVERS_VARIABLE}_SECURITY_PROTOCOL "
            f"to {'SASL_PLAINTEXT' if kafka.is_authenticated else 'PLAINTEXT'}, or give the "
            "address of a port that does"
        )
    if not kafka.is_encrypted and not is_silent and _answers_with_tls(address):
        return (
            f"the broker at {address} uses TLS: set {SERVERS_VARIABLE}_SECURITY_PROTOCOL to "
            f"{'SASL_SSL' if kafka.is_authenticated else 'SSL or SASL_SSL'}"
        )
    return (
        f"the server at {address} does not answer as a Kafka broker ({reason}): check the address, "
        "and the broker's log"
    )


def _refused_certificate(kafka: KafkaConnection, address: str, reason: str) -> str:
    if kafka.ssl_certfile is None:
        return (
            f"the broker at {address} asks for a client's certificate ({reason}): set "
            f"{SERVERS_VARIABLE}_SSL_CERTFILE and {SERVERS_VARIABLE}_SSL_KEYFILE"
        )
    return (
        f"the broker at {address} refuses the client's certificate ({reason}): "
        f"{SERVERS_VARIABLE}_SSL_CERTFILE names one that an authority of the broker has issued"
    )


def _answers_unencrypted(address: str) -> bool:
    try:
        with _channel(address, None) as channel:
            _mechanisms(channel, None)
    except (OSError, EOFError, KafkaError):
        return False
    return True


def _answers_with_tls(address: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is said to this server: it is asked which protocol it speaks.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with _channel(address, context):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
