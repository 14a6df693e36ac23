"""uvicorn's server with an accept loop of our own, and a listener."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import uvicorn

from usageledger.gateway.connections.caps import Caps
from usageledger.gateway.connections.certificate import Certificate
from usageledger.gateway.connections.protocol import HEAD_WITHIN_S, BoundedProtocol
from usageledger.gateway.metrics import CONNECTIONS_REFUSED

BACKLOG = 2_048
TRY_AGAIN_AFTER_S = 1.0
CLOSE_WITHIN_S = 5.0

MakeProtocol = Callable[[bool, Callable[[], None]], BoundedProtocol]

log = logging.getLogger(__name__)


class BoundedServer(uvicorn.Server):
    """A server with bounded connections. It leaves signals to the process."""

    def __init__(
        self,
        config: uvicorn.Config,
        listener: socket.socket,
        caps: Caps,
        certificate: Certificate | None,
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._caps = caps
        self._certificate = certificate

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        acceptor = _Acceptor(self._listener, self._caps, self._certificate, self._protocol)
        # uvicorn asks its servers for nothing but their end.
        self.servers = [acceptor]  # type: ignore[list-item]
        acceptor.begin()
        self.started = True

    def _protocol(self, is_proxy: bool, on_lost: Callable[[], None]) -> BoundedProtocol:
        return BoundedProtocol(
            config=self.config,
            server_state=self.server_state,
            app_state={},
            caps=self._caps,
            is_proxy=is_proxy,
            on_lost=on_lost,
        )


class _Acceptor:
    """Accepts the connections of one listener, one in each turn of the loop.

    When there are no more open files, asyncio's own accept loop writes thousands of tracebacks a
    second. This one waits a second and tries again. Where connections are capped, it refuses them
    before it speaks TLS.
    """

    def __init__(
        self,
        listener: socket.socket,
        caps: Caps,
        certificate: Certificate | None,
        make_protocol: MakeProtocol,
    ) -> None:
        self._listener = listener
        self._caps = caps
        self._certificate = certificate
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def begin(self) -> None:
        """Accept connections until `close`."""
        if not self._is_closed:
            self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more connections, and end those that are not yet connected."""
        self._is_closed = True
        self._loop.remove_reader(self._listener)
        for task in self._connecting:
            task.cancel()

    async def wait_closed(self) -> None:
        """Return at once: the server waits for connections itself."""

    def _accept(self) -> None:
        try:
            connection, (host, *_) = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error(
                "no connection can be accepted (%s): trying again every %.0f s",
                error,
                TRY_AGAIN_AFTER_S,
            )
            CONNECTIONS_REFUSED.labels("error").inc()
            self._loop.remove_reader(self._listener)
            self._loop.call_later(TRY_AGAIN_AFTER_S, self.begin)
            return
        if (why := self._caps.refusal(host)) is not None:
            connection.close()
            log.warning("a connection was refused: %s", why)
            CONNECTIONS_REFUSED.labels("cap").inc()
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._connect(connection, host, self._caps.enter(host)))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(
        self, connection: socket.socket, host: str, leave: Callable[[], None]
    ) -> None:
        make = partial(self._make_protocol, self._caps.is_proxy(host), leave)
        is_connected = False
        try:
            if self._certificate is None:
                await self._loop.connect_accepted_socket(make, connection)
            else:
                await self._loop.connect_accepted_socket(
                    make,
                    connection,
                    ssl=self._certificate.context(),
                    ssl_handshake_timeout=HEAD_WITHIN_S,
                    ssl_shutdown_timeout=CLOSE_WITHIN_S,
                )
            is_connected = True
        except OSError:
            CONNECTIONS_REFUSED.labels("handshake").inc()
        finally:
            if not is_connected:
                connection.close()
                leave()


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises OSError, which says what to do."""
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG
        )
    except OSError as error:
        raise OSError(
            f"nothing can listen at {host}:{port} ({error.strerror}): choose another port with "
            "--port or USAGELEDGER_GATEWAY_PORT"
        ) from None
    # Connections inherit it. asyncio sets it only on sockets that name their protocol, which
    # this one does not. Without it an answer's body waits 40 ms until the caller has
    # acknowledged its head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setblocking(False)
    return listening
