"""The client of one VDSM: calls with deadlines and three outcomes over one lasting connection."""

from __future__ import annotations

import asyncio
import random
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import structlog

from pyatm.vdsm import jsonrpc, verbs
from pyatm.vdsm.connection import Address, Connection, ConnectionSettings
from pyatm.vdsm.errors import (
    Answered,
    BadAnswer,
    ConnectError,
    Json,
    MalformedMessageError,
    NotSent,
    QueueFull,
    Refused,
    Starting,
    Unknown,
)
from pyatm.vdsm.link import Backoff, Link
from pyatm.vdsm.requests import LateAnswer, Request, Requests, Result
from pyatm.vdsm.stomp import Frame, encode
from pyatm.vdsm.tls import TlsContext, TlsFiles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

T = TypeVar("T")
Outcome: TypeAlias = "Answered[T] | Refused | Unknown | NotSent"

REQUESTS: Final = "jms.topic.vdsm_requests"
_FIRST_RETRY: Final = 0.2  # seconds; doubled up to
_LONGEST_RETRY: Final = 5.0


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How calls are made. All times are seconds.

    :param timeout: deadline of verbs that VDSM answers at once.
    :param slow_timeout: deadline of verbs that may wait for a lock (VDSM waits up to 120 s), for a
        full task queue or for a rollback.
    :param max_in_flight: requests sent and not answered, at most. VDSM has 8 workers and a queue
        of 80 for all its clients together.
    :param late_answers: how many unanswered requests are remembered, so that a late answer can
        still settle them.
    :param late_age: how long each is remembered.
    """

    timeout: float = 30.0
    slow_timeout: float = 180.0
    max_in_flight: int = 32
    late_answers: int = 4096
    late_age: float = 3600.0
    connection: ConnectionSettings = field(default_factory=ConnectionSettings)
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True, slots=True)
class ClientState:
    """How it stands with the host.

    :param connected: the connection is up, which does not mean that VDSM answers.
    :param connects: connections made so far.
    :param in_flight: requests sent whose calls wait for the answer.
    :param unanswered: deadlines passed in a row without any answer in between. With the connection
        up this is VDSM being deaf or overloaded; heart-beats do not show it.
    :param answered_at: event loop time (monotonic seconds) of the last answer, None before it.
    :param last_error: why the last connection, or attempt, ended.
    """

    connected: bool
    connects: int
    in_flight: int
    unanswered: int
    answered_at: float | None
    last_error: Exception | None


@dataclass(frozen=True, slots=True)
class _Times:
    timeout: float  # seconds, for messages
    deadline: float  # loop time, which is time.monotonic(); so is
    send_by: float


class VdsmClient:
    """A client of the VDSM on one host. Use it as an async context manager, or call ``close``.

    It connects when it is entered (in the background) or at the first call, stays connected, and
    reconnects by itself. Verbs are in :attr:`host`, :attr:`task`, :attr:`pool`, :attr:`image`,
    :attr:`volume`, :attr:`vm`; :meth:`call` and :meth:`create_task` reach all others.

    :param address: host and port.
    :param tls: certificate files; None speaks plain TCP.
    :param on_late_answer: called in the event loop with each answer that came too late for its
        call; it must not block. Its exceptions are logged.
    """

    def __init__(
        self,
        address: Address,
        *,
        tls: TlsFiles | None = None,
        settings: ClientSettings | None = None,
        on_late_answer: Callable[[LateAnswer], None] | None = None,
    ) -> None:
        self.address = address
        self.settings = settings or ClientSettings()
        # One destination for the life of this object: answers to requests of a lost connection
        # still arrive here once the next one has subscribed to it.
        self._reply_to = str(uuid.uuid4())
        self._log = structlog.get_logger(__name__).bind(host=str(address))
        self._slots = asyncio.Semaphore(self.settings.max_in_flight)
        self._requests = Requests(
            keep=self.settings.late_answers,
            keep_for=self.settings.late_age,
            on_late_answer=on_late_answer,
        )
        self._unanswered = 0
        self._without_id = 0
        self._answered_at: float | None = None
        self._link = Link(
            address,
            tls=None if tls is None else TlsContext(tls),
            settings=self.settings.connection,
            backoff=self.settings.backoff,
            reply_to=self._reply_to,
            on_frame=self._take,
        )
        self.host = verbs.Host(self)
        self.task = verbs.Task(self)
        self.pool = verbs.Pool(self)
        self.image = verbs.Image(self)
        self.volume = verbs.Volume(self)
        self.vm = verbs.Vm(self)

    async def __aenter__(self) -> VdsmClient:
        self._link.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def state(self) -> ClientState:
        """How it stands with the host now."""
        connection = self._link.connection
        return ClientState(
            connected=connection is not None and connection.usable,
            connects=self._link.connects,
            in_flight=len(self._requests),
            unanswered=self._unanswered,
            answered_at=self._answered_at,
            last_error=self._link.last_error,
        )

    async def connect(self) -> None:
        """Connect now, even in a pause between attempts; no effect when connected.

        Raises a :class:`~pyatm.vdsm.errors.ConnectError` that says what is wrong.
        """
        await self._link.connect(self.settings.connection.connect_timeout + 1)

    async def close(self) -> None:
        """End the connection. Calls in flight end as ``Unknown``, answers are no longer awaited."""
        await self._link.close()
        self._requests.close()

    async def call(
        self,
        method: str,
        params: Mapping[str, Json] | None = None,
        *,
        timeout: float | None = None,
        slow: bool = False,
        correlation_id: str | None = None,
        send_by: float | None = None,
        retry: bool = True,
    ) -> Json:
        """Call any JSON-RPC method; returns the result's Python value.

        :param params: parameters by name.
        :param timeout: seconds until the call ends in any case, waiting for a connection and
            retries included; None takes the setting (``slow_timeout`` if ``slow``).
        :param correlation_id: appears in VDSM's log, comes back in :class:`LateAnswer`.
        :param send_by: the moment (``time.monotonic()``) after which it must not be sent any more;
            the call then ends as :class:`NotSent`.
        :param retry: repeat after the answers 99 (starting) and 1100 (queue full), which mean that
            nothing was executed, until the deadline. Nothing else is ever repeated.

        Raises :class:`Refused`, :class:`NotSent`, :class:`Unknown`; ``ValueError`` for parameters
        that JSON cannot hold. While not connected it waits for the next attempt to connect and
        raises :class:`NotSent` if that fails.
        """
        times = self._times(timeout, slow, send_by)
        result = await self._call(method, params or {}, times, correlation_id, retry)
        return jsonrpc.value(result.text)

    async def create_task(
        self,
        method: str,
        params: Mapping[str, Json],
        *,
        timeout: float | None = None,
        correlation_id: str | None = None,
        send_by: float | None = None,
    ) -> str:
        """Call a verb that starts a task, such as ``Image.delete``; returns VDSM's task id.

        Arguments as for :meth:`call`, ``slow`` is implied.

        Raises as :meth:`call`. After :class:`Unknown` the task may exist: do not repeat the call.
        """
        sending = verbs.Sending(timeout, correlation_id, send_by)
        return await verbs.create_task(self, method, params, sending)

    async def call_json(self, method: str, *, timeout: float | None = None) -> str:
        """Call without parameters; the result, which must be an object, as JSON text."""
        times = self._times(timeout, slow=False, send_by=None)
        result = await self._call(method, {}, times, None, retry=True)
        if not result.text.startswith("{"):
            raise BadAnswer(method, result.request_id, "expected an object as result")
        return result.text

    async def call_as(
        self,
        read: Callable[[Json], T],
        method: str,
        params: Mapping[str, Json],
        *,
        slow: bool = False,
        timeout: float | None = None,
        correlation_id: str | None = None,
        send_by: float | None = None,
    ) -> T:
        """Call and read the result with ``read``; its ``ValueError`` becomes a ``BadAnswer``."""
        times = self._times(timeout, slow, send_by)
        result = await self._call(method, params, times, correlation_id, retry=True)
        try:
            return read(jsonrpc.value(result.text))
        except (ValueError, RecursionError) as error:
            raise BadAnswer(method, result.request_id, f"expected {error}") from None

    def _times(self, timeout: float | None, slow: bool, send_by: float | None) -> _Times:
        if timeout is None:
            timeout = self.settings.slow_timeout if slow else self.settings.timeout
        deadline = asyncio.get_running_loop().time() + timeout
        return _Times(timeout, deadline, deadline if send_by is None else min(send_by, deadline))

    async def _call(
        self,
        method: str,
        params: Mapping[str, Json],
        times: _Times,
        correlation_id: str | None,
        retry: bool,
    ) -> Result:
        pause = _FIRST_RETRY
        while True:
            try:
                return await self._attempt(method, params, times, correlation_id)
            except (Starting, QueueFull):
                wait = random.uniform(pause / 2, pause)  # noqa: S311 (spreads load only)
                if not retry or asyncio.get_running_loop().time() + wait >= times.send_by:
                    raise
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_RETRY)

    async def _attempt(
        self,
        method: str,
        params: Mapping[str, Json],
        times: _Times,
        correlation_id: str | None,
    ) -> Result:
        request_id = str(uuid.uuid4())
        headers = [
            ("destination", REQUESTS),
            ("content-type", "application/json"),
            ("reply-to", self._reply_to),
        ]
        if correlation_id is not None:
            headers.append(("ovirtCorrelationId", correlation_id))
        body = jsonrpc.request(method, params, request_id)
        frame = encode(Frame("SEND", tuple(headers), body))
        try:
            async with asyncio.timeout_at(times.send_by):
                await self._slots.acquire()
        except TimeoutError:
            limit = self.settings.max_in_flight
            text = f"not sent: {limit} requests were waiting for answers all the time"
            raise NotSent(method, request_id, text) from None
        try:
            connection = await self._connection(method, request_id, times.send_by)
            # From here to the wait there is no await: what is registered is sent and vice versa.
            request = self._requests.add(request_id, method, correlation_id)
            connection.send(frame)
            return await self._answer(request, connection, times)
        finally:
            self._slots.release()

    async def _connection(self, method: str, request_id: str, send_by: float) -> Connection:
        while True:
            try:
                connection = await self._link.get(send_by)
                async with asyncio.timeout_at(send_by):
                    await connection.ready()
            except ConnectError as error:
                raise NotSent(method, request_id, f"not sent: {error}") from error
            except TimeoutError:
                text = f"not sent: {self.address} does not read what it was sent before"
                raise NotSent(method, request_id, text) from None
            except OSError:
                await asyncio.sleep(0)  # lost a moment ago: ask the link for the next one
                continue
            if asyncio.get_running_loop().time() >= send_by:
                # Also after a pause of the whole process, in which no timer could run.
                raise NotSent(method, request_id, "not sent: it was too late when its turn came")
            if connection.usable:
                return connection

    async def _answer(self, request: Request, connection: Connection, times: _Times) -> Result:
        try:
            await asyncio.wait(
                (request.answer, connection.lost),
                timeout=max(times.deadline - asyncio.get_running_loop().time(), 0),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            self._requests.stop_waiting(request)  # for cancelled callers too
        if request.answer.done():
            return request.result()
        reason = connection.lost.result() if connection.lost.done() else None
        if reason is None:
            self._unanswered += 1
        text = str(reason or f"no answer in {times.timeout:g} s from {self.address}")
        raise Unknown(
            request.method, request.request_id, f"sent, but: {text}", request.late
        ) from reason

    def _take(self, frame: Frame) -> None:
        """One frame of the host; a ``FrameError`` from here ends the connection."""
        if frame.command == "ERROR":
            # Without an id: nobody can tell to which of our frames it belongs.
            text = frame.body[:200].decode(errors="replace")
            self._log.warning("VDSM sent an ERROR frame", error=text)
        if frame.command != "MESSAGE":
            return
        try:
            message = jsonrpc.message(frame.body)
        except MalformedMessageError:
            if frame.get("destination") != self._reply_to:
                return  # meant for somebody else
            raise
        if isinstance(message, jsonrpc.Event):
            return
        if message.request_id is None:
            self._take_without_id(message)
            return
        # An answer is the only proof that VDSM lives.
        self._answered_at = asyncio.get_running_loop().time()
        self._unanswered = 0
        self._link.proved_alive()
        self._requests.settle(message)

    def _take_without_id(self, message: jsonrpc.Answer) -> None:
        """Somebody, perhaps not us, sent VDSM something that it could not parse."""
        self._without_id += 1
        if self._without_id & (self._without_id - 1) == 0:  # the 1st, 2nd, 4th, 8th ...
            self._log.warning(
                "VDSM could not parse a request of one of its clients",
                code=message.code,
                error=message.message[:200],
                count=self._without_id,
            )


async def outcome(call: Awaitable[T]) -> Outcome[T]:
    """Await a call of a :class:`VdsmClient` and return how it ended instead of raising."""
    try:
        return Answered(await call)
    except (Refused, Unknown, NotSent) as ended:
        return ended
