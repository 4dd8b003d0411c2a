"""Plays the server side of a recorded conversation to a real client, over real sockets.

The client under test makes the calls that the recorded client made; ids and destinations in the
recorded bytes are replaced by the client's own. What each call must come to is derived from the
recording alone.

Meant deviations, because our client never does what some recorded clients did:

* it offers STOMP 1.2 only, so after an ERROR in answer to CONNECT it gives the connection up;
* it always sends CONNECT: where the recording has none, a CONNECTED with ``0,0`` is played;
* it sends a request only after CONNECTED, which is therefore played before the first request;
* it gives every request an id of its own: requests that share one are left out;
* it never sends broken frames, requests without id or reply destination, unusual versions or
  batches: such lines are left out, what the server said after them is played all the same.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyatm.vdsm import (
    Answered,
    Backoff,
    BadAnswer,
    ClientSettings,
    ConnectError,
    ConnectionSettings,
    HostUnreachable,
    NotSent,
    Refused,
    TaskStatus,
    TaskStatuses,
    Unknown,
    VdsmClient,
    VersionRejected,
    outcome,
)
from pyatm.vdsm.errors import FrameError
from pyatm.vdsm.stomp import CLIENT_COMMANDS, SERVER_COMMANDS, Decoder, Frame
from tests.protocol.scripted import PATIENCE, Peer, ScriptedVdsm, closed_port

if TYPE_CHECKING:
    from tests.protocol.recordings import Event, Recording

COMMON = "jms.topic.vdsm_responses"
WAIT = 0.3  # deadline of calls that the recorded client waited for in vain
# No attempt of its own: the conductor says when the client connects again.
SETTINGS = ClientSettings(
    max_in_flight=1000,
    backoff=Backoff(first=3600, longest=3600),
    connection=ConnectionSettings(beat_tolerance=10),
)


@dataclass(frozen=True, slots=True)
class Said:
    """A request of the recorded client that ours can make, and how it was answered."""

    event: Event
    id: str
    method: str
    params: dict[str, Any]
    correlation_id: str | None
    answer: dict[str, Any] | None
    answered_on: int
    waited: float  # recorded seconds until the connection ended, for requests without answer


@dataclass(slots=True)
class Call:
    said: Said
    task: asyncio.Task[Any]


@dataclass(slots=True)
class Link:
    """One recorded connection while it is played."""

    client: VdsmClient
    server: ScriptedVdsm
    connecting: asyncio.Task[Exception | None]
    peer: Peer
    ids: dict[bytes, bytes]
    connected: bool = False
    given_up: bool = False
    calls: list[Call] = field(default_factory=list)


@dataclass(slots=True)
class Replay:
    """What the client made of a recording.

    ``tasks`` are task ids in the order of the create requests (tasks that were only seen in a
    listing come after them), ``statuses`` what was last heard of each ended task.
    """

    recording: Recording
    piece: int | None
    tasks: list[str] = field(default_factory=list)
    statuses: dict[str, TaskStatus] = field(default_factory=dict)
    ids: dict[bytes, bytes] = field(default_factory=dict)  # of requests: recorded, our client's
    checked: int = 0
    left_out: int = 0  # answered requests on connections that our client gave up after ERROR
    links: dict[int, Link] = field(default_factory=dict)
    clients: dict[str, tuple[VdsmClient, ScriptedVdsm]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    async def play(self) -> None:
        """Play everything; raises ``AssertionError`` where the client concluded something else."""
        try:
            for event in self.recording.events:
                await self._play(event)
            for call in self.calls:
                await self._check(call)
        finally:
            for client, server in self.clients.values():
                await client.close()
                await server.stop()

    async def _play(self, event: Event) -> None:
        if event.conn == 0:
            return
        if event.kind == "control":
            if b"refused" in event.data and not self.recording.of(event.conn, "client", "server"):
                await self._refused()
            return
        link = self.links.get(event.conn) or await self._open(event.conn)
        if event.kind == "server":
            await self._server(link, event)
        elif event.kind == "client":
            said = understand(self.recording, event)
            if said is not None and link.given_up:
                self.left_out += said.answer is not None
            elif said is not None:
                await self._welcome_early(link, event.conn)
                await self._say(link, said)
        else:
            await self._end(link, event)

    async def _refused(self) -> None:
        async with VdsmClient(closed_port(), settings=SETTINGS) as client:
            try:
                await client.connect()
            except HostUnreachable:
                return
        raise AssertionError("a refused connection was not reported as HostUnreachable")

    async def _open(self, conn: int) -> Link:
        # A recorded client is known by its reply destination, on whatever connection.
        private, _, _ = subscriptions(self.recording, conn)
        key = private or f"connection {conn}"
        if key not in self.clients:
            server = ScriptedVdsm()
            await server.start()
            self.clients[key] = VdsmClient(server.address, settings=SETTINGS), server
        client, server = self.clients[key]
        connecting = asyncio.create_task(failure(client))
        peer = await server.accept()
        frames = await peer.connect()
        link = Link(client, server, connecting, peer, own_ids(self.recording, conn, frames))
        self.links[conn] = link
        return link

    async def _server(self, link: Link, event: Event) -> None:
        if link.given_up:
            return
        frame = first_frame(event.data)
        if frame is not None and frame.command == "CONNECTED" and link.connected:
            return  # played early
        await link.peer.write(replaced(event.data, link.ids | self.ids), self.piece)
        if link.connected or frame is None:
            return
        error = await link.connecting
        if frame.command == "CONNECTED":
            assert error is None, error
            link.connected = True
            check_heart_beat(link.client, frame)
        else:
            assert isinstance(error, VersionRejected), error
            link.given_up = True

    async def _welcome_early(self, link: Link, conn: int) -> None:
        if link.connected:
            return
        recorded = self.recording.of(conn, "server")
        for event in recorded:
            frame = first_frame(event.data)
            if frame is not None and frame.command == "CONNECTED":
                await self._server(link, event)
                return
        link.peer.send(Frame("CONNECTED", (("version", "1.2"), ("heart-beat", "0,0"))))
        assert await link.connecting is None
        link.connected = True

    async def _say(self, link: Link, said: Said) -> None:
        task = asyncio.create_task(outcome(speak(link.client, said)))
        asked = await link.peer.asked()
        assert asked.method == said.method
        assert asked.params == said.params
        assert asked.frame.get("ovirtCorrelationId") == said.correlation_id
        # Ids are exchanged as JSON texts, quotes included, so that no other text is hit.
        self.ids[json.dumps(said.id).encode()] = json.dumps(asked.id).encode()
        call = Call(said, task)
        link.calls.append(call)
        self.calls.append(call)

    async def _end(self, link: Link, event: Event) -> None:
        if not link.connected and not link.given_up:
            link.peer.reset() if "RST" in event.note else link.peer.close()
            error = await link.connecting
            assert isinstance(error, ConnectError), error
            return
        for call in self.calls:
            if call.said.answered_on == event.conn:  # TCP is on its way
                await asyncio.wait((call.task,), timeout=PATIENCE)
                if call.task.done() and isinstance(ended := call.task.result(), Unknown):
                    await ended.wait(PATIENCE)
        for call in link.calls:
            if call.said.waited > 1 and call.said.answer is None:  # its deadline
                await asyncio.wait((call.task,), timeout=PATIENCE)
        if event.kind == "close-by-client":
            later = [e for e in self.recording.events if e.line > event.line]
            private, _, _ = subscriptions(self.recording, event.conn)
            if not any(private and private.encode() in e.data for e in later):
                await link.client.close()
            return
        link.peer.reset() if "RST" in event.note else link.peer.close()
        async with asyncio.timeout(PATIENCE):
            while link.client.state.connected:
                await asyncio.sleep(0)

    async def _check(self, call: Call) -> None:
        said = call.said
        async with asyncio.timeout(PATIENCE):
            ended = await call.task
        place = f"{self.recording.scenario} line {said.event.line} {said.method}"
        assert not isinstance(ended, NotSent | BadAnswer), f"{place}: {ended!r}"
        answer = said.answer
        if answer is None:
            assert isinstance(ended, Unknown), f"{place}: {ended!r}"
            return
        if said.answered_on != said.event.conn:
            assert isinstance(ended, Unknown), f"{place}: {ended!r}"
            ended = await ended.wait(PATIENCE)
        self.checked += 1
        if "error" in answer:
            assert isinstance(ended, Refused), f"{place}: {ended!r}"
            assert (ended.code, ended.message) == (
                answer["error"]["code"],
                answer["error"]["message"],
            ), place
            return
        assert isinstance(ended, Answered), f"{place}: {ended!r}"
        self._conclude(place, said, ended.value, answer["result"])

    def _conclude(self, place: str, said: Said, value: Any, recorded: Any) -> None:
        if isinstance(value, TaskStatuses):
            assert json.loads(value.raw) == recorded, place
            assert set(value.parse()) == set(recorded), place
            seen = list(value.parse().values())
        elif isinstance(value, TaskStatus):
            seen = [value]
            recorded = {value.task_id: recorded}
        else:
            assert value == recorded, place
            if said.method in CREATING:
                self.tasks.append(value)
            return
        for status in seen:
            fields = recorded[status.task_id]
            # The two rules of the format's README, from the recorded fields.
            assert status.ended == (fields["taskState"] == "finished"), place
            good = fields["taskState"] == "finished" and fields["taskResult"] == "success"
            assert status.succeeded == good, place
            if status.ended:
                self.statuses[status.task_id] = status


CREATING = ("Image.delete", "Volume.create", "Volume.copy", "StoragePool.spmStart")


async def speak(client: VdsmClient, said: Said) -> Any:
    """Make a recorded call, through the typed verb where there is one."""
    timeout = WAIT if said.answer is None and said.waited > 1 else PATIENCE
    code = (said.answer or {}).get("error", {}).get("code")
    parameters = tuple(said.params)
    if said.correlation_id is None and code not in (99, 1100):  # those two would be retried
        if said.method == "Host.getAllTasksStatuses" and not parameters:
            return await client.host.get_all_tasks_statuses(timeout=timeout)
        if said.method == "Task.getStatus" and parameters == ("taskID",):
            return await client.task.get_status(said.params["taskID"], timeout=timeout)
    return await client.call(
        said.method,
        said.params,
        timeout=timeout,
        correlation_id=said.correlation_id,
        retry=False,
    )


async def failure(client: VdsmClient) -> Exception | None:
    try:
        await client.connect()
    except ConnectError as error:
        return error
    return None


def first_frame(data: bytes) -> Frame | None:
    """The frame of a server line; None for a heart-beat."""
    items = list(Decoder(SERVER_COMMANDS).feed(data))
    return items[0] if items and isinstance(items[0], Frame) else None


def understand(recording: Recording, event: Event) -> Said | None:
    """The request in a client line, if our client could have sent it."""
    try:
        items = list(Decoder(CLIENT_COMMANDS).feed(event.data))
    except FrameError:
        return None
    frame = items[0] if items else None
    if not isinstance(frame, Frame) or frame.command != "SEND":
        return None
    private, _, _ = subscriptions(recording, event.conn)
    if private is None or frame.get("reply-to") != private or unsubscribed(recording, event):
        return None
    try:
        body = json.loads(frame.body)
    except ValueError:
        return None
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    if not isinstance(body, dict) or body.get("jsonrpc") != "2.0":
        return None
    params = body.get("params", {})
    if not (isinstance(body.get("id"), str) and isinstance(body.get("method"), str)):
        return None
    if not (isinstance(params, dict) and body["id"] and body["method"]):
        return None
    if not (frame.get("destination") or "").startswith("jms.topic.vdsm"):
        return None
    if sum(json.dumps(body["id"]).encode() in e.data for e in recording.events if asks(e)) > 1:
        return None
    answer, answered_on = answer_to(recording, event, body["id"], private)
    correlation_id = frame.get("ovirtCorrelationId")
    waited = ended_at(recording, event.conn) - event.t
    return Said(
        event, body["id"], body["method"], params, correlation_id, answer, answered_on, waited
    )


def asks(event: Event) -> bool:
    return event.kind == "client" and event.data.startswith(b"SEND")


def answer_to(
    recording: Recording, event: Event, request_id: str, destination: str
) -> tuple[dict | None, int]:
    for later in recording.events:
        if later.kind != "server" or later.line < event.line:
            continue
        frame = first_frame(later.data)
        if frame is None or frame.command != "MESSAGE":
            continue
        if frame.get("destination") != destination:
            continue
        body = json.loads(frame.body)
        if isinstance(body, dict) and body.get("id") == request_id:
            return body, later.conn
    return None, 0


def ended_at(recording: Recording, conn: int) -> float:
    ends = recording.of(conn, "close-by-server", "close-by-client")
    return ends[0].t if ends else recording.events[-1].t + 60


def unsubscribed(recording: Recording, event: Event) -> bool:
    return any(
        e.line < event.line and e.data.startswith(b"UNSUBSCRIBE")
        for e in recording.of(event.conn, "client")
    )


def subscriptions(recording: Recording, conn: int) -> tuple[str | None, str, str]:
    """Private destination, its subscription id, and the subscription id of the common one."""
    private: str | None = None
    private_id = common_id = ""
    for event in recording.of(conn, "client"):
        if not event.data.startswith(b"SUBSCRIBE"):
            continue
        frame = next(iter(Decoder(CLIENT_COMMANDS).feed(event.data)))
        assert isinstance(frame, Frame)
        if frame.get("destination") == COMMON:
            common_id = frame.get("id") or ""
        elif private is None and not (frame.get("destination") or "").startswith("jms.queue"):
            private, private_id = frame.get("destination"), frame.get("id") or ""
    return private, private_id, common_id


def own_ids(recording: Recording, conn: int, frames: list[Frame]) -> dict[bytes, bytes]:
    """Recorded header lines of MESSAGE frames, and what they are on the client's connection."""
    private, private_id, common_id = subscriptions(recording, conn)
    ids: dict[bytes, bytes] = {}
    for name, recorded, own in (
        ("destination", private, frames[1].get("destination")),
        ("subscription", private_id, frames[1].get("id")),
        ("subscription", common_id, frames[2].get("id")),
    ):
        if recorded:
            ids[f"\n{name}:{recorded}\n".encode()] = f"\n{name}:{own}\n".encode()
    return ids


def replaced(data: bytes, ids: dict[bytes, bytes]) -> bytes:
    """The recorded bytes with the client's own ids; the length header is kept true."""
    head, gap, body = data.partition(b"\n\n")
    before = len(body)
    for recorded, own in ids.items():
        if recorded.startswith(b"\n"):
            head = (head + b"\n").replace(recorded, own)[:-1]
        else:
            body = body.replace(recorded, own)
    if len(body) != before and body.endswith(b"\0"):
        old, new = before - 1, len(body) - 1
        head = head.replace(b"\ncontent-length:%d" % old, b"\ncontent-length:%d" % new)
    return head + gap + body


def check_heart_beat(client: VdsmClient, connected: Frame) -> None:
    """The client must take what the answer says, not what it offered."""
    first, _, second = (connected.get("heart-beat") or "").partition(",")
    connection = client._link.connection
    assert connection is not None
    assert connection.beat_every == int(second) / 2000
    assert connection.silence_allowed == 10 * int(first) / 1000
