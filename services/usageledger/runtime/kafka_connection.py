"""How every Kafka client of ours connects: to which brokers, encrypted or not, and as whom.

One setting serves the services, the commands and the SDKs. It needs neither pydantic nor a Kafka
library until a client asks for its options.

Files are read whenever a connection is made, so a rotated password, key or certificate is used by
the next connection, without a restart. (Brokers keep open connections that are authenticated.)
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
SERVERS_VARIABLE = "USAGELEDGER_KAFKA"
PASSWORD_VARIABLE = "USAGELEDGER_KAFKA_SASL_PASSWORD"
# The fields that variables, and the file of a running stack, give a value to.
_FIELDS_BY_VARIABLE = {
    "USAGELEDGER_KAFKA_SECURITY_PROTOCOL": "security_protocol",
    "USAGELEDGER_KAFKA_SASL_MECHANISM": "sasl_mechanism",
    "USAGELEDGER_KAFKA_SASL_USERNAME": "sasl_username",
    "USAGELEDGER_KAFKA_SASL_PASSWORD": "sasl_password",
    "USAGELEDGER_KAFKA_SASL_PASSWORD_FILE": "sasl_password_file",
    "USAGELEDGER_KAFKA_SASL_TOKEN_FILE": "sasl_token_file",
    "USAGELEDGER_KAFKA_SSL_CAFILE": "ssl_cafile",
    "USAGELEDGER_KAFKA_SSL_CERTFILE": "ssl_certfile",
    "USAGELEDGER_KAFKA_SSL_KEYFILE": "ssl_keyfile",
}
_SECRETS = ("sasl_password",)
# The options of a kafka-python client that only a KafkaConnection sets.
CONNECTION_OPTIONS = frozenset(
    {
        "bootstrap_servers",
        "security_protocol",
        "ssl_context",
        "ssl_check_hostname",
        "ssl_cafile",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "ssl_crlfile",
        "ssl_ciphers",
        "sasl_mechanism",
        "sasl_plain_username",
        "sasl_plain_password",
        "sasl_oauth_token_provider",
    }
)


class KafkaConnectionError(ValueError):
    """The settings of the connection to Kafka do not fit together, or a file cannot be read.

    ``str()`` says which one, and what to do.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConnection:
    """Where Kafka is, and how to connect to it. ``str()`` gives the addresses.

    * ``servers``: "host:port,host:port".
    * ``security_protocol``: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
    * ``sasl_mechanism``: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.
    * ``sasl_username``, and ``sasl_password`` or ``sasl_password_file``: for PLAIN and SCRAM.
    * ``oauth_token`` or ``sasl_token_file``: for OAUTHBEARER. The callable is asked for a token
      whenever a connection is made; it may block, and may be called by any thread.
    * ``ssl_cafile``: the authorities that may vouch for a broker, as PEM; by default the system's.
    * ``ssl_certfile``, ``ssl_keyfile``: the client's certificate and key, as PEM.

    Raises KafkaConnectionError if these do not fit together.
    """

    servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    sasl_password_file: Path | None = None
    sasl_token_file: Path | None = None
    oauth_token: Callable[[], str] | None = None
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None

    def __post_init__(self) -> None:
        for problem in (
            self._servers_problem(),
            self._protocol_problem(),
            self._sasl_problem(),
            self._tls_problem(),
        ):
            if problem:
                raise KafkaConnectionError(problem)

    def __str__(self) -> str:
        return self.servers

    @classmethod
    def from_environment(
        cls, servers: str | None = None, environment: Mapping[str, str] | None = None
    ) -> KafkaConnection:
        """The connection that the variables ``USAGELEDGER_KAFKA`` and ``…_KAFKA_…`` describe.

        ``servers`` replaces USAGELEDGER_KAFKA. Raises KafkaConnectionError.
        """
        variables = os.environ if environment is None else environment
        return cls._from_texts(
            servers or variables.get(SERVERS_VARIABLE, ""),
            {name: variables.get(name, "") for name in _FIELDS_BY_VARIABLE},
        )

    @classmethod
    def from_json(
        cls, document: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> KafkaConnection:
        """The connection that `as_json` described. Its password comes from the environment.

        Raises KafkaConnectionError.
        """
        variables = os.environ if environment is None else environment
        texts = {name: document.get(each) or "" for name, each in _FIELDS_BY_VARIABLE.items()}
        if document.get("sasl_mechanism") and not document.get("sasl_password_file"):
            texts[PASSWORD_VARIABLE] = variables.get(PASSWORD_VARIABLE, "")
        return cls._from_texts(document.get("servers", ""), texts)

    @classmethod
    def _from_texts(cls, servers: str, texts: Mapping[str, str]) -> KafkaConnection:
        values: dict[str, Any] = {
            _FIELDS_BY_VARIABLE[name]: Path(text) if name.endswith("FILE") else text
            for name, text in texts.items()
            if text
        }
        return cls(servers=servers, **values)

    def as_json(self) -> dict[str, str]:
        """Every setting that is set, but no secret: this may be written down."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: str(value)
            for name, value in values.items()
            if value is not None and name not in _SECRETS and name != "oauth_token"
        }

    def as_environment(self) -> dict[str, str]:
        """The variables that give a child process this connection. Unset ones are empty.

        Contains the password. Raises KafkaConnectionError where a callable gives the tokens.
        """
        if self.oauth_token is not None:
            raise KafkaConnectionError(
                "a callable cannot be handed to another process: name a file with "
                f"{SERVERS_VARIABLE}_SASL_TOKEN_FILE"
            )
        return {SERVERS_VARIABLE: self.servers} | {
            name: str(getattr(self, each) or "") for name, each in _FIELDS_BY_VARIABLE.items()
        }

    @property
    def addresses(self) -> list[str]:
        """``host:port`` of each broker that is named."""
        return [address.strip() for address in self.servers.split(",")]

    @property
    def is_encrypted(self) -> bool:
        """Whether connections use TLS."""
        return self.security_protocol in ("SSL", "SASL_SSL")

    @property
    def is_authenticated(self) -> bool:
        """Whether connections begin with a user name or a token."""
        return self.security_protocol.startswith("SASL_")

    @property
    def follows_password_file(self) -> bool:
        """Whether the password is read anew for each connection."""
        return (
            self.is_authenticated
            and self.sasl_mechanism != "OAUTHBEARER"
            and self.sasl_password_file is not None
        )

    def password(self) -> str:
        """The password as it is now. Raises KafkaConnectionError if its file cannot be read."""
        if self.sasl_password_file is None:
            return self.sasl_password or ""
        return _text_of(self.sasl_password_file, "SASL_PASSWORD_FILE")

    def token(self) -> str:
        """A token for OAUTHBEARER. Raises KafkaConnectionError, and what the callable raises."""
        if self.oauth_token is not None:
            return self.oauth_token()
        assert self.sasl_token_file is not None
        return _text_of(self.sasl_token_file, "SASL_TOKEN_FILE")

    def tls_context(self) -> ssl.SSLContext | None:
        """The context that encrypts a connection and checks the broker's name; None without TLS.

        Raises KafkaConnectionError if a file is missing or holds nothing of the kind.
        """
        if not self.is_encrypted:
            return None
        context = _FileFollowingContext(ssl.PROTOCOL_TLS_CLIENT)
        context.follow(self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile)
        return context

    @staticmethod
    def check_options(options: Mapping[str, object] | None) -> None:
        """Raise KafkaConnectionError if an app's own options of a client say how to connect."""
        refused = sorted(CONNECTION_OPTIONS & set(options or ()))
        if refused:
            raise KafkaConnectionError(
                f"kafka_options cannot set {', '.join(refused)}: give a KafkaConnection as kafka, "
                f"or set the variables {SERVERS_VARIABLE}_…"
            )

    def client_options(self, token_provider: Callable[[Callable[[], str]], Any]) -> dict[str, Any]:
        """The options that kafka-python and aiokafka call alike, with the password as it is now.

        ``token_provider`` makes what the library asks for a token. Raises KafkaConnectionError.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": self.addresses,
            "security_protocol": self.security_protocol,
            "ssl_context": self.tls_context(),
        }
        if not self.is_authenticated:
            return options
        options["sasl_mechanism"] = self.sasl_mechanism
        if self.sasl_mechanism == "OAUTHBEARER":
            return options | {"sasl_oauth_token_provider": token_provider(self.token)}
        return options | {
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.password(),
        }

    def for_kafka_python(self) -> dict[str, Any]:
        """The options of a kafka-python client. Raises KafkaConnectionError."""
        if not self.is_authenticated:
            return self.client_options(lambda _: None)
        from usageledger.runtime.kafka_python_sasl import FollowedPassword, token_provider

        options = self.client_options(token_provider)
        if self.follows_password_file:
            password = FollowedPassword(options["sasl_plain_password"], self.password)
            options["sasl_plain_password"] = password
        return options

    def _servers_problem(self) -> str | None:
        if self.servers.strip():
            return None
        return f'kafka="host:port" is needed (or the environment variable {SERVERS_VARIABLE})'

    def _protocol_problem(self) -> str | None:
        if self.security_protocol not in PROTOCOLS:
            return (
                f"{SERVERS_VARIABLE}_SECURITY_PROTOCOL is one of {', '.join(PROTOCOLS)}, not "
                f"{self.security_protocol!r}"
            )
        if not self.is_authenticated and (self.sasl_mechanism or self.sasl_username):
            return (
                f"a SASL mechanism or user name is set, but {self.security_protocol} connections "
                f"send neither: set {SERVERS_VARIABLE}_SECURITY_PROTOCOL to SASL_SSL"
            )
        if not self.is_encrypted and (self.ssl_cafile or self.ssl_certfile):
            return (
                f"a certificate is set, but {self.security_protocol} connections are not "
                f"encrypted: set {SERVERS_VARIABLE}_SECURITY_PROTOCOL to SSL or SASL_SSL"
            )
        return None

    def _sasl_problem(self) -> str | None:
        if not self.is_authenticated:
            return None
        if self.sasl_mechanism not in MECHANISMS:
            return (
                f"{SERVERS_VARIABLE}_SASL_MECHANISM is one of {', '.join(MECHANISMS)}, not "
                f"{self.sasl_mechanism!r}"
            )
        if self.sasl_mechanism == "OAUTHBEARER":
            if (self.oauth_token is None) == (self.sasl_token_file is None):
                return (
                    "OAUTHBEARER needs one source of tokens: oauth_token (a callable), or a file "
                    f"that {SERVERS_VARIABLE}_SASL_TOKEN_FILE names"
                )
            return None
        if not self.sasl_username:
            return f"{self.sasl_mechanism} needs a user name: set {SERVERS_VARIABLE}_SASL_USERNAME"
        if (self.sasl_password is None) == (self.sasl_password_file is None):
            return (
                f"{self.sasl_mechanism} needs one password: set "
                f"{SERVERS_VARIABLE}_SASL_PASSWORD_FILE to the file that holds it, or "
                f"{SERVERS_VARIABLE}_SASL_PASSWORD"
            )
        return None

    def _tls_problem(self) -> str | None:
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            return (
                "a client's certificate and its key belong together: set both "
                f"{SERVERS_VARIABLE}_SSL_CERTFILE and {SERVERS_VARIABLE}_SSL_KEYFILE"
            )
        return None


class _FileFollowingContext(ssl.SSLContext):
    """A TLS context that loads its files again before a connection, once they have changed.

    An authority that a new file no longer names stays trusted until the client is made anew: a
    context cannot forget one.
    """

    _cafile: Path | None
    _certfile: Path | None
    _keyfile: Path | None
    _loaded: tuple[object, ...]

    def follow(self, cafile: Path | None, certfile: Path | None, keyfile: Path | None) -> None:
        """Load these files now. Raises KafkaConnectionError."""
        self._cafile, self._certfile, self._keyfile = cafile, certfile, keyfile
        if cafile is None:
            self.load_default_certs()
        self._loaded = self._versions()
        self._load()

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        self._load_if_changed()
        return super().wrap_socket(*args, **kwargs)

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        self._load_if_changed()
        return super().wrap_bio(*args, **kwargs)

    def _load_if_changed(self) -> None:
        versions = self._versions()
        if versions != self._loaded:
            self._load()
            self._loaded = versions

    def _versions(self) -> tuple[object, ...]:
        return tuple(
            None if path is None else _version_of(path)
            for path in (self._cafile, self._certfile, self._keyfile)
        )

    def _load(self) -> None:
        try:
            if self._cafile is not None:
                self.load_verify_locations(self._cafile)
            if self._certfile is not None:
                self.load_cert_chain(self._certfile, self._keyfile)
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(
                str(path) for path in (self._cafile, self._certfile, self._keyfile) if path
            )
            raise KafkaConnectionError(
                f"the certificates for Kafka cannot be loaded from {names} ({error}): they are PEM "
                "files that this process can read, and the key belongs to the certificate"
            ) from error


def _version_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _text_of(path: Path, variable: str) -> str:
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise KafkaConnectionError(
            f"{path}, which {SERVERS_VARIABLE}_{variable} names, cannot be read ({error})"
        ) from error
    if not text:
        raise KafkaConnectionError(f"{path}, which {SERVERS_VARIABLE}_{variable} names, is empty")
    return text
