"""The requests that were sent: matched with their answers by id, also after their calls ended."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from pyatm.vdsm import jsonrpc
from pyatm.vdsm.errors import Answered, BadAnswer, Refused, Unknown, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyatm.vdsm.errors import Json


@dataclass(frozen=True, slots=True)
class LateAnswer:
    """An answer that came after its call had ended as ``Unknown`` or was cancelled.

    :param correlation_id: what the caller gave to the call.
    """

    request_id: str
    method: str
    correlation_id: str | None
    answer: Answered[Json] | Refused


@dataclass(frozen=True, slots=True)
class Result:
    """A result as VDSM wrote it.

    :param text: JSON.
    """

    request_id: str
    text: str


@dataclass(slots=True, eq=False)
class Request:
    """A request on its way. ``late`` takes the place of ``answer`` once its call has ended."""

    request_id: str
    method: str
    correlation_id: str | None
    sent_at: float
    answer: asyncio.Future[jsonrpc.Answer]
    late: asyncio.Future[Answered[Json] | Refused]

    def result(self) -> Result:
        """What was answered; raises ``Refused`` or ``BadAnswer``. Only once ``answer`` is done."""
        return _result(self, self.answer.result())


class Requests:
    """Requests of one client: those whose calls wait, and those whose calls gave up.

    :param keep: how many of the latter are remembered, and ``keep_for`` how many seconds each.
    :param on_late_answer: told of each answer that came after its call had ended.
    """

    def __init__(
        self, *, keep: int, keep_for: float, on_late_answer: Callable[[LateAnswer], None] | None
    ) -> None:
        self._keep, self._keep_for, self._on_late_answer = keep, keep_for, on_late_answer
        self._waiting: dict[str, Request] = {}
        self._overdue: OrderedDict[str, Request] = OrderedDict()
        self._log = structlog.get_logger(__name__)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request_id: str, method: str, correlation_id: str | None) -> Request:
        """Register a request, immediately before it is sent."""
        loop = asyncio.get_running_loop()
        request = Request(
            request_id=request_id,
            method=method,
            correlation_id=correlation_id,
            sent_at=loop.time(),
            answer=loop.create_future(),
            late=loop.create_future(),
        )
        self._waiting[request_id] = request
        return request

    def stop_waiting(self, request: Request) -> None:
        """The call is over; without an answer the request is kept for a late one."""
        del self._waiting[request.request_id]
        if request.answer.done():
            return
        self._overdue[request.request_id] = request
        now = asyncio.get_running_loop().time()
        while self._overdue:
            oldest = next(iter(self._overdue.values()))
            if now - oldest.sent_at <= self._keep_for and len(self._overdue) <= self._keep:
                return
            self._overdue.popitem(last=False)
            oldest.late.cancel()

    def settle(self, answer: jsonrpc.Answer) -> None:
        """Hand an answer to the request with its id; one that is nobody's is dropped."""
        request_id = answer.request_id
        if request_id is None:
            return
        if (request := self._waiting.get(request_id)) is not None:
            if not request.answer.done():
                request.answer.set_result(answer)
        elif (request := self._overdue.pop(request_id, None)) is not None:
            self._settle_late(request, answer)

    def close(self) -> None:
        """Give up all hope of late answers."""
        for request in self._overdue.values():
            request.late.cancel()
        self._overdue.clear()

    def _settle_late(self, request: Request, answer: jsonrpc.Answer) -> None:
        late: Answered[Json] | Refused
        try:
            late = Answered(jsonrpc.value(_result(request, answer).text))
        except Refused as refused:
            late = refused
        except (Unknown, ValueError, RecursionError):
            request.late.cancel()
            return
        self._log.info("late answer", method=request.method, request_id=request.request_id)
        request.late.set_result(late)
        if self._on_late_answer is None:
            return
        told = LateAnswer(request.request_id, request.method, request.correlation_id, late)
        try:
            self._on_late_answer(told)
        except Exception:
            # The caller's defect must not cost the connection.
            self._log.exception("on_late_answer failed", request_id=request.request_id)


def _result(request: Request, answer: jsonrpc.Answer) -> Result:
    method, request_id = request.method, request.request_id
    if answer.code is not None:
        raise refusal(method, request_id, answer.code, answer.message)
    if answer.result is None:
        raise BadAnswer(method, request_id, "the answer has neither a result nor a usable error")
    try:
        return Result(request_id, answer.result.decode())
    except UnicodeDecodeError:
        raise BadAnswer(method, request_id, "the answer is not UTF-8") from None
