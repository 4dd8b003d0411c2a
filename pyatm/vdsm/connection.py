"""One STOMP connection to one host: set-up, heart-beats, and its end in a named error."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pyatm.vdsm.errors import (
    ConnectionLost,
    ConnectTimeout,
    FrameError,
    HostUnreachable,
    PeerSilent,
    ProtocolViolation,
    VdsmError,
    VersionRejected,
)
from pyatm.vdsm.stomp import SERVER_COMMANDS, Decoder, Frame, Limits, encode
from pyatm.vdsm.tls import explain

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from pyatm.vdsm.tls import TlsContext

COMMON_DESTINATION: Final = "jms.topic.vdsm_responses"
_READ_BYTES: Final = 64 * 1024
_SHUTDOWN_TIMEOUT: Final = 0.5  # seconds for TLS's goodbye


@dataclass(frozen=True, slots=True)
class Address:
    """Where a VDSM listens."""

    host: str
    port: int = 54321

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """How a connection is made and watched. All times are seconds.

    :param connect_timeout: for TCP, TLS and STOMP set-up together.
    :param heart_beat_out: the longest silence of ours that we offer; beats go out at half of what
        was agreed, because VDSM closes without grace. 0: none.
    :param heart_beat_in: the longest silence of the host that we ask for. 0: none.
    :param beat_tolerance: the host is given up after this many agreed intervals of silence.
    :param frame_timeout: the longest time in which a begun frame must be complete.
    :param watch_common: subscribe to ``jms.topic.vdsm_responses`` too, where VDSM sends errors
        that it cannot attribute to a request.
    :param limits: what the peer may make us hold in memory.
    """

    connect_timeout: float = 10.0
    heart_beat_out: float = 10.0
    heart_beat_in: float = 10.0
    beat_tolerance: float = 2.0
    frame_timeout: float = 60.0
    watch_common: bool = True
    limits: Limits = field(default_factory=Limits)


class Connection:
    """A connection on which CONNECT was accepted and the reply destination is subscribed.

    Made by :meth:`open`; :meth:`run` must then be awaited by exactly one task: it reads, beats and
    watches until the connection has ended.
    """

    def __init__(
        self,
        address: Address,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        settings: ConnectionSettings,
    ) -> None:
        self.address = address
        self.lost: asyncio.Future[VdsmError] = asyncio.get_running_loop().create_future()
        self._reader, self._writer = streams
        self._settings = settings
        self._decoder = Decoder(SERVER_COMMANDS, settings.limits)
        self._now = asyncio.get_running_loop().time
        self._sent_at = self._received_at = self._now()
        self._frame_since: float | None = None
        self._failure: VdsmError | None = None
        self.beat_every: float = 0.0  # seconds between our beats, 0 without
        self.silence_allowed: float = 0.0  # seconds without a byte before we give up, 0 without

    @classmethod
    async def open(
        cls,
        address: Address,
        *,
        tls: TlsContext | None,
        settings: ConnectionSettings,
        reply_to: str,
    ) -> Connection:
        """Connect, negotiate, and subscribe to ``reply_to`` before anything can be sent.

        Raises a :class:`ConnectError` that says what is wrong; nothing stays open then.
        """
        context = None if tls is None else tls.current()
        connection: Connection | None = None
        try:
            async with asyncio.timeout(settings.connect_timeout):
                connection = cls(address, await _dial(address, context, settings), settings)
                await connection._negotiate(reply_to, tls is not None)
        except BaseException as error:
            if connection is not None:
                connection.abort()
            if isinstance(error, TimeoutError):
                # Ours; a TimeoutError of the operating system was translated in _dial.
                text = f"{address}: no connection within {settings.connect_timeout:g} s"
                raise ConnectTimeout(text) from None
            raise
        return connection

    def send(self, frame: bytes) -> None:
        """Hand a whole frame to the transport: it may be on its way when this returns."""
        self._sent_at = self._now()
        self._writer.write(frame)

    @property
    def usable(self) -> bool:
        """False as soon as the end of the connection has been noticed."""
        return not self.lost.done() and not self._writer.is_closing()

    async def run(self, on_frame: Callable[[Frame], None]) -> VdsmError:
        """Read frames until the connection ends; returns the reason, also set on :attr:`lost`.

        :param on_frame: called for each frame; a :class:`FrameError` of it ends the connection.
        """
        watcher = asyncio.create_task(self._watch())
        reason: VdsmError = ConnectionLost(f"{self.address}: closed by this client")
        try:
            data = b""  # first what came together with CONNECTED
            while True:
                for frame in self._frames(data):
                    on_frame(frame)
                if not (data := await self._reader.read(_READ_BYTES)):
                    break
            reason = self._failure or ConnectionLost(f"{self.address}: the host closed it")
        except FrameError as error:
            reason = ProtocolViolation(f"{self.address}: {error}")
            reason.__cause__ = error
        except OSError as error:
            reason = self._failure or ConnectionLost(f"{self.address}: {error}")
        finally:
            # Whatever ended it: nobody may wait on this connection any longer.
            self.abort()
            self.lost.set_result(reason)
            watcher.cancel()
            await asyncio.wait((watcher,))
        return reason

    def abort(self) -> None:
        """Close at once, without goodbye. VDSM keeps working on what it was sent."""
        self._writer.transport.abort()

    async def ready(self) -> None:
        """Wait until what was sent before has mostly left, so that a peer that does not read
        cannot make us pile up requests. Raises ``OSError`` when the connection has ended."""
        await self._writer.drain()

    async def _negotiate(self, reply_to: str, tls: bool) -> None:
        offer = (self._settings.heart_beat_out, self._settings.heart_beat_in)
        beat = ",".join(str(round(seconds * 1000)) for seconds in offer)
        # No host header: VDSM ignores it. Subscribed in the same write, as VDSM's own client does,
        # so there is no moment in which a request could be sent without a way back.
        frames = [
            Frame("CONNECT", (("accept-version", "1.2"), ("heart-beat", beat))),
            subscribe(reply_to),
        ]
        if self._settings.watch_common:
            frames.append(subscribe(COMMON_DESTINATION))
        answer = await self._first_frame(b"".join(map(encode, frames)), tls)
        if answer.command == "ERROR":
            text = answer.body[:200].decode(errors="replace")
            raise VersionRejected(f"{self.address}: CONNECT was refused: {text}")
        if answer.command != "CONNECTED" or answer.get("version") != "1.2":
            raise VersionRejected(
                f"{self.address}: {answer.command} version {answer.get('version')} in answer to"
                " CONNECT, expected CONNECTED version 1.2"
            )
        theirs, ours = _heart_beat(answer.get("heart-beat"))
        self.beat_every = ours / 2
        self.silence_allowed = theirs * self._settings.beat_tolerance

    async def _first_frame(self, hello: bytes, tls: bool) -> Frame:
        received = False
        failure: Exception | None = None
        try:
            self._writer.write(hello)
            while data := await self._reader.read(_READ_BYTES):
                received = True
                for frame in self._frames(data):
                    # The rest stays in the decoder until run() asks for it.
                    return frame
        except FrameError as error:
            text = (
                f"{self.address}: does not answer in STOMP ({error}); is TLS set as it should be?"
            )
            raise VersionRejected(text) from error
        except OSError as error:
            failure = error
        if received:
            raise HostUnreachable(f"{self.address}: closed in the middle of its first answer")
        reason = explain(failure, self._tls_version(), tls)
        raise type(reason)(f"{self.address}: {reason}") from failure

    def _tls_version(self) -> str | None:
        session: ssl.SSLObject | None = self._writer.get_extra_info("ssl_object")
        return None if session is None else session.version()

    def _frames(self, data: bytes) -> Iterator[Frame]:
        if data:
            self._received_at = self._now()
        for item in self._decoder.feed(data):
            if isinstance(item, Frame):
                self._frame_since = None
                yield item
        if not self._decoder.pending:
            self._frame_since = None
        elif self._frame_since is None:
            self._frame_since = self._received_at

    async def _watch(self) -> None:
        """Send our beats and find out when the host has stopped."""
        while True:
            await asyncio.sleep(self._until_due())
            # After a pause of this process the beats may be waiting in the socket: let the reader
            # see them before judging.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            now = self._now()
            silent = now - self._received_at
            if 0 < self.silence_allowed <= silent:
                self._fail(PeerSilent(f"{self.address}: no sign of life for {silent:.1f} s"))
            elif self._frame_since is not None and now - self._frame_since >= (
                limit := self._settings.frame_timeout
            ):
                self._fail(PeerSilent(f"{self.address}: a frame was not complete in {limit:g} s"))
            elif 0 < self.beat_every <= now - self._sent_at:
                self._sent_at = now
                self._writer.write(b"\n")

    def _until_due(self) -> float:
        due = [self._now() + 1.0]
        if self.beat_every:
            due.append(self._sent_at + self.beat_every)
        if self.silence_allowed:
            due.append(self._received_at + self.silence_allowed)
        return max(min(due) - self._now(), 0.001)

    def _fail(self, reason: VdsmError) -> None:
        if self._failure is None:
            self._failure = reason
        self.abort()


def subscribe(destination: str) -> Frame:
    """A SUBSCRIBE frame with a fresh subscription id."""
    headers = (("destination", destination), ("ack", "auto"), ("id", str(uuid.uuid4())))
    return Frame("SUBSCRIBE", headers)


def _heart_beat(header: str | None) -> tuple[float, float]:
    """Seconds: what the host will send, what it expects. Nonsense counts as none, as in VDSM."""
    first, _, second = (header or "").partition(",")
    if not (_is_count(first) and _is_count(second)):
        return 0.0, 0.0
    return int(first) / 1000, int(second) / 1000


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


async def _dial(
    address: Address, context: ssl.SSLContext | None, settings: ConnectionSettings
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    # TCP first and TLS on the finished socket, so that an error says in which of the two it was.
    tcp = await _tcp(address)
    if context is None:
        return await asyncio.open_connection(sock=tcp, limit=_READ_BYTES)
    try:
        return await asyncio.open_connection(
            sock=tcp,
            limit=_READ_BYTES,
            ssl=context,
            server_hostname=address.host,
            ssl_handshake_timeout=settings.connect_timeout,
            ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT,
        )
    except OSError as error:
        reason = explain(error, None, tls=True)
        raise type(reason)(f"{address}: {reason}") from error


async def _tcp(address: Address) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HostUnreachable(f"{address}: {error.strerror or error}") from error
    for family, kind, protocol, _, target in found:
        tcp = socket.socket(family, kind, protocol)
        try:
            tcp.setblocking(False)
            _keep_alive(tcp)
            await loop.sock_connect(tcp, target)
        except OSError as error:
            failure = error
            tcp.close()
        except BaseException:
            tcp.close()
            raise
        else:
            return tcp
    reason = os.strerror(failure.errno or 0) if failure else "the name has no address"
    raise HostUnreachable(f"{address}: {reason}") from failure


def _keep_alive(tcp: socket.socket) -> None:
    # For hosts that negotiate heart-beats away: a dead peer is noticed after about 25 s.
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if (option := getattr(socket, name, None)) is not None:
            tcp.setsockopt(socket.IPPROTO_TCP, option, value)
    if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        tcp.setsockopt(socket.IPPROTO_TCP, option, 25_000)
