"""Plays the client side of a recording to a simulator over real sockets and compares its frames.

Events are played in their order: a client line is sent when every earlier server line has arrived
and at least the recorded time has passed since the event before it, so that a slow machine delays
a replay but does not break it.

Two things a recording does not say in words are read from its frames: how long a spmStart works
(it ends before the first answer that shows it ended), and which verbs a slow storage layer slows
down (those whose recorded answer was late or never came).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyatm.simulator.settings import SimulatorSettings
from pyatm.vdsm.stomp import SERVER_COMMANDS, Decoder, Frame
from tests.protocol.comparison import RACE, Ids, body_of, difference, same_frame
from tests.protocol.requests import (
    code_of,
    json_of,
    key_of,
    requests_of,
    shows_end,
    statuses_in,
)
from tests.protocol.stage import Stage

if TYPE_CHECKING:
    from pathlib import Path

    from tests.protocol.recordings import Event, Recording

PATIENCE = 20.0  # seconds that something recorded may be late


@dataclass(slots=True)
class Arrived:
    """A frame from the simulator, its place in the order of arrival, and when it came."""

    frame: Frame
    place: int
    at: float
    expected_at: float | None = None


@dataclass(slots=True)
class Line:
    """One connection to the simulator."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    news: asyncio.Event = field(default_factory=asyncio.Event)
    frames: list[Arrived] = field(default_factory=list)
    beats: int = 0
    end: str = ""
    opened: float = 0.0
    reading: asyncio.Task[None] | None = None

    async def read(self) -> None:
        decoder = Decoder(SERVER_COMMANDS)
        loop = asyncio.get_running_loop()
        try:
            while data := await self.reader.read(65536):
                for item in decoder.feed(data):
                    if isinstance(item, Frame):
                        self.frames.append(Arrived(item, len(self.frames), loop.time()))
                    else:
                        self.beats += 1
                self.news.set()
            self.end = "eof"
        except ConnectionResetError:
            self.end = "reset"
        self.news.set()


class Conductor:
    """Plays one recording against one simulator."""

    def __init__(self, recording: Recording, directory: Path) -> None:
        self.recording = recording
        self.ids = Ids()
        self.stage = Stage(directory, self.ids.ours, self._message_of)
        self.differences: list[str] = []
        self.compared = 0
        self._lines: dict[int, Line] = {}
        self._requests = requests_of(recording)
        self._releases = self._spm_starts()
        self._sent: dict[str, float] = {}
        self._changed = -1.0  # recorded time of the last thing that changed a task
        self._begun = self._shift = 0.0
        self._overflows = [0, 0]

    async def play(self) -> None:
        """Play everything; ``differences`` then holds what was not as recorded."""
        events = self.recording.events
        first = next((i for i, e in enumerate(events) if e.kind != "control"), len(events))
        for event in events[:first]:
            await self.stage.prepare(event.data.decode())
        await self.stage.open()
        loop = asyncio.get_running_loop()
        self._begun = loop.time()
        self._shift = -events[first].t
        try:
            index = first
            while index < len(events):
                index = await self._play(index)
                if len(self.differences) > 3:
                    return
            workers, refused = SimulatorSettings(self.stage.directory).rpc_workers, self._overflows
            if bool(refused[0]) != bool(refused[1]) or abs(refused[0] - refused[1]) > workers:
                self.differences.append(f"error 1100: recorded {refused[0]}, not {refused[1]}")
        finally:
            for line in self._lines.values():
                line.writer.close()
                if line.reading is not None:
                    line.reading.cancel()
            await self.stage.close()

    async def _play(self, index: int) -> int:
        event = self.recording.events[index]
        if event.kind == "control":
            await self._pace(event)
            await self._control(event)
        elif event.kind == "client":
            return await self._client(index)
        elif event.kind == "server":
            await self._release(index)
            await self._server(index)
        elif event.kind == "close-by-server":
            await self._closed(event)
        else:
            await self._pace(event)
            self._hang_up(event)
        return index + 1

    async def _pace(self, event: Event) -> None:
        loop = asyncio.get_running_loop()
        late = loop.time() - self._begun - event.t - self._shift
        if late < 0:
            await asyncio.sleep(-late)
        else:
            self._shift += late

    async def _control(self, event: Event) -> None:
        words = event.data.decode()
        if re.search(r"refused", words) and re.search(r"connect", words):
            assert self.stage.simulator is not None
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.stage.simulator.port)
            except ConnectionRefusedError:
                return
            writer.close()
            self.differences.append(f"line {event.line}: the connection was not refused")
            return
        await self.stage.change(words)
        self._changed = event.t

    async def _client(self, index: int) -> int:
        """Send all that was sent in one write; returns the index after it."""
        events = self.recording.events
        event, data = events[index], b""
        while index < len(events):
            more = events[index]
            if (more.kind, more.conn, more.t) != ("client", event.conn, event.t):
                break
            await self._release(index)
            await self._slow_down(index)
            data += self.ids.ours(more.data.decode()).encode()
            index += 1
        await self._pace(event)
        line = self._lines.get(event.conn) or await self._open(event.conn)
        loop = asyncio.get_running_loop()
        for request_id, request in self._requests.items():
            if events[request.index].t == event.t and events[request.index].conn == event.conn:
                self._sent.setdefault(request_id, loop.time())
                if request.method.startswith(("Task.stop", "Task.revert", "Volume", "Image")):
                    self._changed = event.t
        with contextlib.suppress(OSError):
            line.writer.write(data)
            await line.writer.drain()
        return index

    async def _open(self, conn: int) -> Line:
        assert self.stage.simulator is not None
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.stage.simulator.port, limit=1 << 24
        )
        line = Line(reader, writer, opened=asyncio.get_running_loop().time())
        line.reading = asyncio.create_task(line.read())
        self._lines[conn] = line
        return line

    async def _server(self, index: int) -> None:
        event = self.recording.events[index]
        if not event.data.strip():
            return  # BEATS are counted when the connection ends
        (recorded,) = Decoder(SERVER_COMMANDS).feed(event.data)
        assert isinstance(recorded, Frame)
        line = self._lines[event.conn]
        arrived = await self._wait(line, lambda: _match(recorded, line.frames))
        if arrived is None:
            text = event.data.decode()
            self.differences.append(f"line {event.line}: nothing came for {text!r}")
            return
        arrived.expected_at = event.t
        self.compared += 1
        self._compare(index, recorded, arrived)
        for other in line.frames:
            early, late = (other, arrived) if other.place < arrived.place else (arrived, other)
            if (
                early.expected_at is not None
                and late.expected_at is not None
                and early.expected_at > late.expected_at + RACE
                and not any(self._overflows)
            ):
                self.differences.append(f"line {event.line}: answers in another order")  # SWAP

    def _compare(self, index: int, recorded: Frame, arrived: Arrived) -> None:
        event, simulated = self.recording.events[index], arrived.frame
        if not same_frame(recorded, simulated):
            self.differences.append(f"line {event.line}: {recorded}\nnot {simulated}")
            return
        if recorded.command != "MESSAGE":
            if recorded != simulated:
                self.differences.append(f"line {event.line}: {recorded}\nnot {simulated}")
            return
        theirs = body_of(recorded)
        self.ids.learn(theirs, body_of(simulated))
        text = self.ids.theirs(simulated.body.decode())
        ours = json.loads(text)
        self._overflows[0] += code_of(recorded) == 1100
        self._overflows[1] += code_of(simulated) == 1100
        request = self._requests.get(key_of(theirs.get("id")))
        asked = request.sent if request else event.t
        why = difference(
            theirs,
            ours,
            racing=asked - self._changed < RACE or event.t - self._changed < RACE,
            restarted=self.stage.killed,
        )
        exact = theirs == ours and not self.stage.killed
        if why is None and exact and recorded.body.decode() != text:
            why = f"{recorded.body!r}\nnot {text!r}"
        if why is not None:
            self.differences.append(f"line {event.line}: {why}")
        if (
            request is not None
            and not any(self._overflows)
            and 1100 not in (code_of(recorded), code_of(simulated))
        ):
            took, takes = event.t - request.sent, arrived.at - self._sent[key_of(theirs["id"])]
            if took > 0.3 and takes < took * 0.7 - 0.1:
                self.differences.append(
                    f"line {event.line}: answered after {takes:.2f} s, recorded {took:.2f} s"
                )
        if request is not None and request.method.startswith(("Volume", "Image")):
            self._changed = event.t

    async def _closed(self, event: Event) -> None:
        line = self._lines[event.conn]
        ended = await self._wait(line, lambda: line.end or None)
        reset = "RST" in event.note or "reset" in event.note.lower()
        if ended is None:
            self.differences.append(f"line {event.line}: the connection was not closed")
        elif ended != ("reset" if reset else "eof"):
            self.differences.append(f"line {event.line}: closed by {ended}")
        self._finish(event)

    def _hang_up(self, event: Event) -> None:
        line = self._lines.get(event.conn)
        if line is None:
            return
        if line.end:
            self.differences.append(f"line {event.line}: closed by the server before ({line.end})")
        self._finish(event)
        line.writer.close()

    def _finish(self, event: Event) -> None:
        """Nothing else may have come on a connection that ends."""
        line = self._lines[event.conn]
        for arrived in line.frames:
            if arrived.expected_at is None and code_of(arrived.frame) != 1100:
                self.differences.append(f"line {event.line}: not recorded: {arrived.frame}")
        beats = [e for e in self.recording.of(event.conn, "server") if not e.data.strip()]
        lasted = asyncio.get_running_loop().time() - line.opened
        recorded = event.t - self.recording.of(event.conn)[0].t
        slack = 1 + max(lasted - recorded, 0.0)
        if abs(line.beats - len(beats)) > slack or (not beats and line.beats):
            self.differences.append(
                f"line {event.line}: {line.beats} heart-beats, recorded {len(beats)}"
            )

    async def _wait(self, line: Line, find: Any) -> Any:
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while (found := find()) is None:
            if line.end or loop.time() > end:
                return None
            line.news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(line.news.wait(), end - loop.time())
        return found

    async def _slow_down(self, index: int) -> None:
        if not self.stage.slow:
            return
        for request_id, request in self._requests.items():
            if request.index == index:
                events = self.recording.events
                took = None
                if request.answer is not None:
                    took = events[request.answer].t - request.sent
                if took is None or took > 0.8 * self.stage.slow:
                    await self.stage.do(
                        "fault", action="delay", request_id=request_id, seconds=self.stage.slow
                    )

    async def _release(self, index: int) -> None:
        """End the spmStart that the event at ``index`` shows ended."""
        recorded = self._releases.get(index)
        if recorded is not None and self.stage.simulator is not None:
            tasks = self.stage.simulator.process.tasks
            task = tasks.tasks.get(self.ids.ours(recorded))
            if task is not None:
                tasks.settle(task.task_id, True)
                await task.ended.wait()
                # Interrupted tasks are rolled back within the moments that follow.
                await asyncio.sleep(0.02)

    def _spm_starts(self) -> dict[int, str]:
        """For each spmStart that worked: before which event it has to be over, and its id."""
        releases: dict[int, str] = {}
        events = self.recording.events
        for request in self._requests.values():
            if request.method != "StoragePool.spmStart" or request.answer is None:
                continue
            body = json_of(events[request.answer].data)
            task_id = body.get("result") if isinstance(body, dict) else None
            if not isinstance(task_id, str):
                continue
            shown = len(events)
            for other in self._requests.values():
                if other.index > request.index and other.answer is not None:
                    blocks = other.method.startswith("StoragePool.spmSt")
                    if shows_end(events[other.answer].data, task_id):
                        shown = min(shown, other.answer if blocks else other.index)
            releases[shown] = task_id
        return releases

    def _message_of(self, task_id: str, code: int) -> str | None:
        """The exception's text that a recorded task of that code shows."""
        for event in self.recording.events:
            if event.kind == "server" and task_id.encode() in event.data:
                for status in statuses_in(json_of(event.data)):
                    if task_id in (status.get("taskID"), status.get("id")):
                        text = re.fullmatch(r"value=(.*) abortedcode=(\d+)", status["message"])
                        if text and int(text[2]) == code == status["code"]:
                            return text[1]
        return None


def _match(recorded: Frame, frames: list[Arrived]) -> Arrived | None:
    """The first frame of the same kind, or the answer to the same request, not yet compared."""
    wanted = body_of(recorded)
    key = key_of(wanted.get("id")) if isinstance(wanted, dict) else None
    for arrived in frames:
        if arrived.expected_at is None and arrived.frame.command == recorded.command:
            body = body_of(arrived.frame)
            if key is None or key_of(body.get("id")) == key:
                return arrived
    return None
