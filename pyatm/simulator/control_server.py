"""The control port: one JSON object per line in, one per line out."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, Protocol, cast

import structlog

from pyatm.simulator.errors import VdsmFault
from pyatm.simulator.values import BadArgumentError

_log = structlog.get_logger()

_LINE_LIMIT: Final = 16 << 20


class Performer(Protocol):
    """Executes control operations."""

    async def perform(self, operation: str, fields: dict[str, Any]) -> Any: ...


class ControlServer:
    """Serves ``{"op": ..., ...}`` lines with ``{"ok": true, "result": ...}`` or an error.

    Args:
        operations: executes them.
    """

    def __init__(self, operations: Performer) -> None:
        self._operations = operations
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_LINE_LIMIT)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for client in list(self._clients):
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = cast("asyncio.Task[None]", asyncio.current_task())
        self._clients.add(client)
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError, asyncio.CancelledError):
            # The client went away, sent a line without end, or the server stops.
            _log.debug("control client gone")
        finally:
            self._clients.discard(client)
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            fields: Any = json.loads(line)
            if not isinstance(fields, dict):
                raise BadArgumentError('a line must be an object such as {"op": "status"}')
            known = cast("dict[str, Any]", fields)
            operation = known.pop("op", None)
            if not isinstance(operation, str):
                raise BadArgumentError('field op is required, such as {"op": "status"}')
            return {"ok": True, "result": await self._operations.perform(operation, known)}
        except VdsmFault as fault:
            return {"ok": False, "error": fault.message, "code": fault.code}
        except (ValueError, OSError, RuntimeError) as error:
            return {"ok": False, "error": str(error)}
