"""A certificate authority of a test's own, and a handshake in memory."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

BROKER = "localhost"


class Authority:
    """Issues certificates into a directory, the same names each time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self.certificate = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(self.certificate)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Write a certificate and its key, over those of an earlier call; return their paths."""
        issued = self._authority.issue_cert(name, common_name=name)
        certificate, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        issued.private_key_pem.write_to_path(key)
        for number, part in enumerate(issued.cert_chain_pems):
            part.write_to_path(certificate, append=number > 0)
        return certificate, key

    def serial_of_client(self, client: ssl.SSLContext, *, server: str = BROKER) -> str | None:
        """Shake hands as a broker called ``server``; return the client's serial number.

        None if the client shows no certificate. Raises what the client raises.
        """
        broker = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(server).configure_cert(broker)
        self._authority.configure_trust(broker)
        broker.verify_mode = ssl.CERT_OPTIONAL
        to_broker, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        asking = client.wrap_bio(to_client, to_broker, server_hostname=BROKER)
        answering = broker.wrap_bio(to_broker, to_client, server_side=True)
        for _ in range(4):
            for side in (asking, answering):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        found = answering.getpeercert()
        return str(found["serialNumber"]) if found else None
