"""A network of the tests' own: connections through it can be cut, or hang as if half-open."""

import asyncio
from contextlib import suppress
from typing import Self


class Network:
    """Forwards from a port of its own to a server, while the tests want it to.

    :param connect: opens a connection to the server.
    """

    def __init__(self, *connect: str | int) -> None:
        self._connect = connect
        self._passes = asyncio.Event()
        self._passes.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def connections(self) -> int:
        return len(self._writers) // 2

    def freeze(self) -> None:
        """Nothing passes and nothing is closed: neither side can tell."""
        self._passes.clear()

    def thaw(self) -> None:
        """Pass everything again, what was held back first."""
        self._passes.set()

    def cut(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        self.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._connect
        try:
            await self._passes.wait()
            if isinstance(host, str) and host.startswith("/"):
                other = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            else:
                other = await asyncio.open_connection(str(host), int(port))
        except OSError:
            writer.transport.abort()
            return
        for source, target in ((reader, other[1]), (other[0], writer)):
            pump = asyncio.create_task(self._pump(source, target))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)
        self._writers |= {writer, other[1]}

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._passes.wait()
                target.write(data)
                await target.drain()
            await self._passes.wait()
        except OSError:
            pass
        finally:
            with suppress(OSError, RuntimeError):
                target.close()
            self._writers.discard(target)
