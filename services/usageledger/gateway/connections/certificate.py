"""The gateway's own TLS certificate, read again when its files change."""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path

LOOK_AFTER_S = 5.0

log = logging.getLogger(__name__)


class CertificateError(Exception):
    """The certificate cannot be used. The message says why, and what to do."""


class Certificate:
    """A certificate with its key, in PEM files. Raises CertificateError."""

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._files = (certificate,) if key is None else (certificate, key)
        self._versions = self._versions_now()
        self._context = self._loaded()
        self._look_at_s = time.monotonic() + LOOK_AFTER_S

    def context(self) -> ssl.SSLContext:
        """The TLS context for the next connection.

        If changed files cannot be used, that is logged, and the last certificate stays in use.
        """
        now_s = time.monotonic()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_AFTER_S
            try:
                self._read_again()
            except CertificateError as error:
                log.error("the last certificate stays in use: %s", error)
        return self._context

    def _read_again(self) -> None:
        versions = self._versions_now()
        if versions != self._versions:
            self._context = self._loaded()
            self._versions = versions
            log.info("a new certificate is in use: %s", self._files[0])

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # An encrypted key must not make the service wait for somebody's password.
            context.load_cert_chain(self._files[0], self._files[-1], password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(self._advice(error)) from error
        return context

    def _versions_now(self) -> list[tuple[int, int]]:
        try:
            found = [path.stat() for path in self._files]
        except OSError as error:
            raise CertificateError(self._advice(error)) from error
        return [(one.st_mtime_ns, one.st_ino) for one in found]

    def _advice(self, error: OSError) -> str:
        names = " and ".join(map(str, self._files))
        return (
            f"TLS cannot use {names} ({error}): USAGELEDGER_GATEWAY_TLS_CERTFILE names a PEM file "
            "with the certificate and those of its issuers, …_TLS_KEYFILE one with its key, "
            "without a password"
        )
