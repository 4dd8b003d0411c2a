"""TLS on the server's side: client certificates are mandatory, plain text is reset."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_HANDSHAKE: Final = 0x16


def server_context(directory: Path) -> ssl.SSLContext:
    """TLS as VDSM configures it, from ``ca.pem``, ``server-cert.pem`` and ``server-key.pem``.

    Raises FileNotFoundError that names the missing file.
    """
    for name in ("ca.pem", "server-cert.pem", "server-key.pem"):
        if not (directory / name).exists():
            raise FileNotFoundError(f"{directory / name} is missing; --generate-ca makes it")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(directory / "server-cert.pem", directory / "server-key.pem")
    context.load_verify_locations(directory / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Gate:
    """Accepts connections, looks at the first byte, and only then begins with TLS.

    Args:
        listener: a listening socket that does not block; closed by :meth:`close`.
        factory: makes the protocol of a connection.
        context: TLS settings.
        timeout: seconds for the first byte, and again for the handshake.
    """

    def __init__(
        self,
        listener: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        timeout: float,
    ) -> None:
        self._listener = listener
        self._factory = factory
        self._context = context
        self._timeout = timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._keep(asyncio.create_task(self._accept()))

    def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        self._listener.close()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connected, _ = await loop.sock_accept(self._listener)
            self._keep(asyncio.create_task(self._admit(connected)))

    async def _admit(self, connected: socket.socket) -> None:
        try:
            first = await asyncio.wait_for(_peek(connected), self._timeout)
            if first and first[0] != _HANDSHAKE:
                linger = struct.pack("ii", 1, 0)
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            if not first or first[0] != _HANDSHAKE:
                connected.close()
                return
            await asyncio.get_running_loop().connect_accepted_socket(
                self._factory,
                connected,
                ssl=self._context,
                ssl_handshake_timeout=self._timeout,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, TimeoutError):
            # A refused certificate, or a client that went away: the connection just ends.
            with contextlib.suppress(OSError):
                connected.close()
        except asyncio.CancelledError:
            connected.close()
            raise


async def _peek(connected: socket.socket) -> bytes:
    """The first byte, left in the socket; empty when the client closed."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(connected, ready)
    try:
        await readable
    finally:
        loop.remove_reader(connected)
    return connected.recv(1, socket.MSG_PEEK)
