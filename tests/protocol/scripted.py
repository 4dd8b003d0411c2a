"""A VDSM that a test plays by hand, on a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyatm.vdsm import Address
from pyatm.vdsm.stomp import CLIENT_COMMANDS, Decoder, Frame, HeartBeat, encode

if TYPE_CHECKING:
    import ssl

PATIENCE = 20.0  # seconds until a test is given up; no assertion depends on it


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that arrived."""

    id: str
    method: str
    params: dict[str, Any]
    frame: Frame


class Peer:
    """One accepted connection, seen from VDSM's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.beats: list[float] = []
        self.received = b""
        self.reply_to = self.subscription = ""
        self._decoder = Decoder(CLIENT_COMMANDS)
        self._frames: list[Frame] = []

    async def frame(self) -> Frame:
        """The next frame; beats on the way are noted in ``beats``."""
        async with asyncio.timeout(PATIENCE):
            while not self._frames:
                await self._read()
        return self._frames.pop(0)

    async def _read(self) -> None:
        data = await self.reader.read(65536)
        if not data:
            raise EOFError("the client closed the connection")
        self.received += data
        for item in self._decoder.feed(data):
            if isinstance(item, HeartBeat):
                self.beats.append(asyncio.get_running_loop().time())
            else:
                self._frames.append(item)

    async def connect(self) -> list[Frame]:
        """CONNECT and the subscriptions, without an answer yet."""
        connect = await self.frame()
        assert connect.command == "CONNECT"
        private = await self.frame()
        assert private.command == "SUBSCRIBE"
        self.reply_to = private.get("destination") or ""
        self.subscription = private.get("id") or ""
        common = await self.frame()
        assert common.get("destination") == "jms.topic.vdsm_responses"
        return [connect, private, common]

    async def welcome(self, heart_beat: str = "0,0") -> list[Frame]:
        """Accept the connection as VDSM does."""
        frames = await self.connect()
        self.send(Frame("CONNECTED", (("version", "1.2"), ("heart-beat", heart_beat))))
        return frames

    async def asked(self) -> Asked:
        """The next request."""
        frame = await self.frame()
        assert frame.command == "SEND", frame
        body = json.loads(frame.body)
        return Asked(body["id"], body["method"], body["params"], frame)

    def send(self, frame: Frame) -> None:
        self.writer.write(encode(frame))

    def message(self, body: bytes, destination: str | None = None) -> Frame:
        headers = (
            ("destination", destination or self.reply_to),
            ("content-type", "application/json"),
            ("subscription", self.subscription),
        )
        return Frame("MESSAGE", headers, body)

    def answer(self, request: Asked | str, result: Any) -> None:
        request_id = request if isinstance(request, str) else request.id
        body = {"jsonrpc": "2.0", "id": request_id, "result": result}
        self.send(self.message(json.dumps(body).encode()))

    def refuse(self, request: Asked | str, code: int, message: str) -> None:
        request_id = request if isinstance(request, str) else request.id
        error = {"code": code, "message": message}
        body = {"jsonrpc": "2.0", "id": request_id, "error": error}
        self.send(self.message(json.dumps(body).encode()))

    async def write(self, data: bytes, size: int | None = None) -> None:
        """Send ``data`` in one write, or in pieces of ``size`` bytes."""
        for start in range(0, len(data), size or max(len(data), 1)):
            self.writer.write(data[start : start + (size or len(data))])
            await self.writer.drain()
            await asyncio.sleep(0)

    def close(self) -> None:
        """Orderly end of the stream."""
        self.writer.close()

    def reset(self) -> None:
        """TCP reset."""
        tcp: socket.socket = self.writer.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def closed(self) -> None:
        """Wait until the client has closed."""
        async with asyncio.timeout(PATIENCE):
            try:
                while await self.reader.read(65536):
                    pass
            except OSError:
                pass


class ScriptedVdsm:
    """Listens on a free port of this machine; async context manager."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._accepted: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self.address = Address("127.0.0.1", 0)

    async def __aenter__(self) -> ScriptedVdsm:
        port = self.address.port
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", port, ssl=self._tls, start_serving=True
        )
        self.address = Address("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Close the port and every connection: from now on it is refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def start(self) -> None:
        """Listen again on the same port."""
        await self.__aenter__()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self._accepted.put_nowait(Peer(reader, writer))

    async def accept(self) -> Peer:
        """The next connection."""
        async with asyncio.timeout(PATIENCE):
            return await self._accepted.get()

    async def welcome(self, heart_beat: str = "0,0") -> Peer:
        """The next connection, accepted as VDSM does."""
        peer = await self.accept()
        await peer.welcome(heart_beat)
        return peer

    @property
    def waiting(self) -> int:
        """Connections that nobody has accepted yet."""
        return self._accepted.qsize()


def closed_port() -> Address:
    """An address at which nobody listens."""
    with socket.socket() as tcp:
        tcp.bind(("127.0.0.1", 0))
        return Address("127.0.0.1", tcp.getsockname()[1])
