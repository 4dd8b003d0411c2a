"""What the tests of the simulator share: a pool, a client, and short ways to call."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyatm.simulator.operations import Operations
from pyatm.simulator.plans import JobPlan
from pyatm.simulator.settings import SimulatorSettings
from pyatm.vdsm.stomp import SERVER_COMMANDS, Decoder, Frame, encode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from ssl import SSLContext

    from pyatm.simulator.server import Simulator

POOL = "5849b030-626e-47cb-ad90-3ce782d831b3"
DOMAIN = "773adfc7-10d4-4e60-b700-3272ee1871f9"
NOBODY = "00000000-0000-0000-0000-000000000000"
REQUESTS = "jms.topic.vdsm_requests"
RESPONSES = "jms.topic.vdsm_responses"
UNTIL_TOLD = JobPlan(shortest=None)
PATIENCE = 20.0


class FaultError(Exception):
    """An error object of an answer."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass(slots=True)
class RawClient:
    """A client that may misbehave: it sends what it is told and keeps every frame."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    destination: str = field(default_factory=new_id)
    frames: list[Frame] = field(default_factory=list)
    beats: int = 0
    end: str = ""
    _decoder: Decoder = field(default_factory=lambda: Decoder(SERVER_COMMANDS))
    _reading: asyncio.Task[None] | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def connect(
        cls, port: int, *, destination: str | None = None, tls: SSLContext | None = None
    ) -> RawClient:
        streams = await asyncio.open_connection("127.0.0.1", port, ssl=tls, limit=1 << 26)
        client = cls(*streams, destination or new_id())
        client._reading = asyncio.create_task(client._read())
        return client

    @classmethod
    async def ready(cls, port: int, **how: Any) -> RawClient:
        """Connected and subscribed."""
        client = await cls.connect(port, **how)
        client.put(Frame("CONNECT", (("accept-version", "1.2"), ("heart-beat", "0,0"))))
        client.subscribe(client.destination)
        await client.take(lambda frame: frame.command == "CONNECTED")
        return client

    def put(self, frame: Frame) -> None:
        self.writer.write(encode(frame))

    def subscribe(self, destination: str) -> None:
        self.put(Frame("SUBSCRIBE", (("destination", destination), ("id", new_id()))))

    def post(self, body: Any, **headers: str) -> None:
        """SEND a body (JSON unless it is bytes) to the request queue."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        known = {"destination": REQUESTS, "reply-to": self.destination, **headers}
        self.put(Frame("SEND", tuple(known.items()), data))

    def request(self, method: str, params: Any, request_id: Any = None, **headers: str) -> Any:
        """Post a request; returns its id."""
        number = new_id() if request_id is None else request_id
        self.post({"jsonrpc": "2.0", "method": method, "params": params, "id": number}, **headers)
        return number

    async def answer(self, request_id: Any) -> Any:
        """The result of a request; raises FaultError for an error object."""
        frame = await self.take(
            lambda f: f.command == "MESSAGE" and json.loads(f.body).get("id") == request_id
        )
        body = json.loads(frame.body)
        if "error" in body:
            raise FaultError(body["error"]["code"], body["error"]["message"])
        return body["result"]

    async def call(self, method: str, /, **params: Any) -> Any:
        return await self.answer(self.request(method, params))

    async def delete(self, image: str | None = None) -> str:
        return await self.answer(self.request("Image.delete", deletion(image)))

    async def create(self, volume: str | None = None, image: str | None = None) -> str:
        return await self.answer(self.request("Volume.create", creation(volume, image)))

    async def statuses(self) -> dict[str, dict[str, Any]]:
        return await self.call("Host.getAllTasksStatuses")

    async def ended(self, task_id: str) -> dict[str, Any]:
        """The status of a task once it is finished."""
        async with asyncio.timeout(PATIENCE):
            while True:
                status = await self.call("Task.getStatus", taskID=task_id)
                if status["taskState"] == "finished":
                    return status
                await asyncio.sleep(0.01)

    async def take(self, fits: Callable[[Frame], bool]) -> Frame:
        """The next frame that fits, removed from those that were kept."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for frame in self.frames:
                    if fits(frame):
                        self.frames.remove(frame)
                        return frame
                if self.end:
                    raise ConnectionError(f"the connection ended ({self.end})")
                self._news.clear()
                await self._news.wait()

    async def closed(self) -> str:
        """How the connection ended: ``eof`` or ``reset``."""
        async with asyncio.timeout(PATIENCE):
            while not self.end:
                self._news.clear()
                await self._news.wait()
        return self.end

    async def close(self) -> None:
        self.writer.close()
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        try:
            while data := await self.reader.read(1 << 20):
                for item in self._decoder.feed(data):
                    if isinstance(item, Frame):
                        self.frames.append(item)
                    else:
                        self.beats += 1
                self._news.set()
            self.end = "eof"
        except OSError:
            self.end = "reset"
        self._news.set()


def deletion(image: str | None = None) -> dict[str, Any]:
    return {
        "imageID": image or new_id(),
        "storagepoolID": POOL,
        "storagedomainID": DOMAIN,
        "postZero": "false",
        "discard": False,
        "force": "false",
    }


def creation(volume: str | None = None, image: str | None = None) -> dict[str, Any]:
    return {
        "volumeID": volume or new_id(),
        "storagepoolID": POOL,
        "storagedomainID": DOMAIN,
        "imageID": image or new_id(),
        "size": "1073741824",
        "volFormat": 4,
        "preallocate": 2,
        "diskType": "DATA",
        "desc": "",
        "srcImgUUID": NOBODY,
        "srcVolUUID": NOBODY,
    }


def settings(directory: Path, **changes: Any) -> SimulatorSettings:
    """An SPM whose tasks last until they are told to end."""
    values: dict[str, Any] = {"pools": (POOL,), "spm": True, "plan": UNTIL_TOLD, **changes}
    return SimulatorSettings(directory, **values)


async def tell(simulator: Simulator, operation: str, **fields: Any) -> Any:
    """An operation of the control port."""
    return await Operations(simulator).perform(operation, fields)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)
