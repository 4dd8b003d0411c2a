"""One client connection: protocol detection, STOMP commands, heart-beats, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import structlog

from pyatm.simulator.broker import Broker, is_request_queue
from pyatm.vdsm.errors import FrameError
from pyatm.vdsm.stomp import CLIENT_COMMANDS, Decoder, Frame, HeartBeat, Limits, encode

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyatm.simulator.rpc import RpcServer

_log = structlog.get_logger()

_PEEKED: Final = 11
_STOMP: Final = (
    b"CONNECT",
    b"SEND",
    b"SUBSCRIBE",
    b"UNSUBSCRIBE",
    b"MESSAGE",
    b"ERROR",
    b"RECEIPT",
    b"DISCONNECT",
)
_HTTP: Final = (b"GET ", b"PUT ")
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
# VDSM's parser knows no limits; these only keep a broken test from eating the machine.
_LIMITS: Final = Limits(header_bytes=16 << 20, headers=10_000, body_bytes=256 << 20)
_LEAST_BEAT: Final = 1000
_SAME_WAKE: Final = 0.02


@dataclass(frozen=True, slots=True)
class Service:
    """What all connections of one VDSM process share.

    Attributes:
        broker: routes messages.
        rpc: takes requests.
        detection_seconds: how long a new connection may take for its first bytes.
        poll_seconds: how often incoming beats are checked on a connection without outgoing ones.
    """

    broker: Broker
    rpc: RpcServer
    detection_seconds: float
    poll_seconds: float
    connections: set[Connection]


class Connection(asyncio.Protocol):
    """A client as VDSM sees it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._transport: asyncio.Transport | None = None
        self._decoder = Decoder(CLIENT_COMMANDS, _LIMITS)
        self._first = b""
        self._detected = False
        self._half_open = False
        self._expected = 0.0
        self._subscriptions: dict[str, str] = {}
        self._loop = asyncio.get_running_loop()
        self._received = self._sent = self._loop.time()
        self._detection: asyncio.TimerHandle | None = None
        self._outgoing: asyncio.TimerHandle | None = None
        self._incoming: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._service.connections.add(self)
        self._detection = self._loop.call_later(
            self._service.detection_seconds, self._detection_over
        )

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._service.connections.discard(self)
        for timer in (self._detection, self._outgoing, self._incoming):
            if timer is not None:
                timer.cancel()
        for subscription_id, destination in self._subscriptions.items():
            self._service.broker.unsubscribe(self, subscription_id, destination)
        self._subscriptions.clear()
        self._transport = None

    def data_received(self, data: bytes) -> None:
        if self._half_open:
            return
        self._received = self._loop.time()
        if not self._detected:
            self._first += data
            if len(self._first) < _PEEKED:
                return
            data, self._first = self._first, b""
            if not self._detect(data):
                return
        try:
            for item in self._decoder.feed(data):
                if self._transport is None or self._transport.is_closing():
                    return
                if not isinstance(item, HeartBeat):
                    self._handle(item)
        except FrameError as error:
            _log.debug("closing: not a frame", reason=str(error))
            self._close()

    def send(self, frame: Frame) -> None:
        """Write a frame, unless the connection is gone or half open."""
        self._write(encode(frame))

    def drop(self) -> None:
        """Close at once, without an answer."""
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Close with a TCP reset."""
        if self._transport is None:
            return
        connected = self._transport.get_extra_info("socket")
        if connected is not None:
            linger = struct.pack("ii", 1, 0)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()

    def go_half_open(self) -> None:
        """Read and write nothing any more, but keep the socket."""
        self._half_open = True
        for timer in (self._outgoing, self._incoming):
            if timer is not None:
                timer.cancel()
        if self._transport is not None:
            self._transport.pause_reading()

    def _write(self, data: bytes) -> None:
        if self._transport is None or self._half_open or self._transport.is_closing():
            return
        self._transport.write(data)
        self._sent = self._loop.time()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _detection_over(self) -> None:
        if self._detected or self._transport is None:
            return
        if self._first:
            self.reset()
        else:
            self._close()

    def _detect(self, data: bytes) -> bool:
        if data.startswith(_STOMP):
            self._detected = True
            return True
        if data.startswith(_HTTP):
            self._write(_BAD_REQUEST)
            self._close()
        else:
            self.reset()
        return False

    def _handle(self, frame: Frame) -> None:
        handlers: dict[str, Callable[[Frame], None]] = {
            "CONNECT": self._connect,
            "SUBSCRIBE": self._subscribe,
            "UNSUBSCRIBE": self._unsubscribe,
            "SEND": self._take,
            "DISCONNECT": self._disconnect,
        }
        handlers[frame.command](frame)

    def _connect(self, frame: Frame) -> None:
        if frame.get("accept-version") != "1.2":
            self._error("Version unsupported")
            return
        expected, promised = _beats(frame.get("heart-beat"))
        self.send(
            Frame("CONNECTED", (("version", "1.2"), ("heart-beat", f"{promised},{expected}")))
        )
        for timer in (self._outgoing, self._incoming):
            if timer is not None:
                timer.cancel()
        self._outgoing = self._incoming = None
        self._expected = expected / 1000
        if promised:
            self._beat(promised / 1000)
        if expected:
            self._watch(expected / 1000, expected / 1000 if promised else None)

    def _beat(self, interval: float) -> None:
        now, due = self._loop.time(), self._sent + interval
        silent_until = self._received + self._expected
        if self._expected and now < silent_until + _SAME_WAKE and now + _SAME_WAKE > silent_until:
            # VDSM does both in one wake-up, and first looks whether the client still lives.
            due = silent_until + _SAME_WAKE
        elif now >= due:
            self._write(b"\n")
            due = now + interval
        self._outgoing = self._loop.call_at(due, self._beat, interval)

    def _watch(self, limit: float, period: float | None) -> None:
        """Close when nothing came for ``limit`` seconds; no grace.

        ``period`` None: the check only runs when VDSM's poll wakes up.
        """
        now = self._loop.time()
        if now - self._received >= limit:
            _log.debug("closing: no heart-beat from the client", seconds=limit)
            self._close()
            return
        when = self._received + limit if period else now + self._service.poll_seconds
        self._incoming = self._loop.call_at(when, self._watch, limit, period)

    def _subscribe(self, frame: Frame) -> None:
        destination, subscription_id = frame.get("destination"), frame.get("id")
        if not destination or not subscription_id:
            self._error("Missing destination or subscription id header")
        elif subscription_id in self._subscriptions:
            self._error("Subscription id already exists")
        else:
            self._subscriptions[subscription_id] = destination
            self._service.broker.subscribe(self, subscription_id, destination)

    def _unsubscribe(self, frame: Frame) -> None:
        subscription_id = frame.get("id")
        if not subscription_id:
            self._error("Missing id header")
            return
        destination = self._subscriptions.pop(subscription_id, None)
        if destination is not None:
            self._service.broker.unsubscribe(self, subscription_id, destination)

    def _take(self, frame: Frame) -> None:
        destination = frame.get("destination")
        if destination is None:
            self._close()
        elif is_request_queue(destination):
            self._service.rpc.receive(
                frame.body, frame.get("reply-to"), frame.get("ovirtCorrelationId"), self
            )
        elif not self._service.broker.publish(destination, frame.body):
            self._error("Subscription not available")

    def _disconnect(self, frame: Frame) -> None:
        receipt = frame.get("receipt")
        if receipt is None:
            self._close()
        else:
            self.send(Frame("RECEIPT", (("receipt-id", receipt),)))

    def _error(self, text: str) -> None:
        self.send(Frame("ERROR", (), text.encode()))


def _beats(offer: str | None) -> tuple[int, int]:
    """What the client promises and what it wants, in ms; each at least 1000 unless it is 0."""
    try:
        promised, wanted = (int(part) for part in (offer or "0,0").split(","))
    except ValueError:
        return 0, 0
    if promised < 0 or wanted < 0:
        return 0, 0
    return max(promised, _LEAST_BEAT if promised else 0), max(wanted, _LEAST_BEAT if wanted else 0)
