"""JSON-RPC as VDSM does it: eight workers, one dispatcher, and what makes it deaf."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import structlog

from pyatm.simulator import errors
from pyatm.simulator.broker import RESPONSES, Broker
from pyatm.simulator.faults import Action, Rule
from pyatm.simulator.verbs import Host, perform
from pyatm.simulator.worker_pool import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable

_log = structlog.get_logger()


class Origin(Protocol):
    """The connection that a request came from."""

    def drop(self) -> None: ...

    def go_half_open(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Request:
    request_id: Any
    method: Any
    params: Any


@dataclass(frozen=True, slots=True)
class _Context:
    """Where a request came from, and whether its answer is sent."""

    origin: Origin
    correlation_id: str | None
    answered: bool


class RpcServer:
    """The JSON-RPC server of one VDSM process, shared by all its connections.

    Args:
        host: what the verbs work on.
        broker: takes the answers.
        workers: verbs executed at the same time.
        limit: requests that may wait.
        kill: kills the process.
    """

    def __init__(
        self, host: Host, broker: Broker, workers: int, limit: int, kill: Callable[[], None]
    ) -> None:
        self.deaf = False
        """True: nothing is read from the queue of requests any more, until a restart."""
        self.pool = WorkerPool(workers, limit, _report)
        self._host = host
        self._broker = broker
        self._kill = kill
        self._reply_to: dict[Any, str] = {}

    def receive(
        self, body: bytes, reply_to: str | None, correlation_id: str | None, origin: Origin
    ) -> None:
        """Take the body of a SEND frame to a request queue."""
        if self.deaf:
            return
        try:
            parsed: Any = json.loads(body.decode())
        except (ValueError, RecursionError):
            self._fail(errors.parse_error())
            return
        if isinstance(parsed, list):
            items = cast("list[Any]", parsed)
            if not items:
                self._fail(errors.invalid_request([], "request batch is empty"))
                return
        else:
            items = [parsed]
        requests: list[_Request] = []
        faults: list[errors.VdsmFault] = []
        for item in items:
            try:
                request = _read(item)
            except errors.VdsmFault as fault:
                faults.append(fault)
            else:
                requests.append(request)
        poison = [r for r in requests if r.request_id is None or _unhashable(r.request_id)]
        lone_batch = len(items) > 1 and len(faults) + len(poison) == len(items)
        if self._host.faults.deafness and (lone_batch or (poison and len(items) == 1)):
            self.deaf = True
            _log.warning("a poison request made the dispatcher deaf", request=body[:200])
            return
        context = _Context(origin, correlation_id, answered=len(items) == 1)
        if len(items) == 1:
            for fault in faults:
                # VDSM sends these twice.
                self._fail(fault)
                self._fail(fault)
        for request in requests:
            self._dispatch(request, reply_to, context)

    def abandon(self) -> None:
        """Stop at once, as a killed process does."""
        self.pool.abandon()

    def _dispatch(self, request: _Request, reply_to: str | None, context: _Context) -> None:
        named = request.request_id is not None and not _unhashable(request.request_id)
        if named and reply_to is not None:
            # Shared by all connections: the same id in flight twice loses the first one's place.
            self._reply_to[request.request_id] = reply_to
        if not self.pool.try_put(lambda: self._execute(request, context)):
            self._answer(request, errors.too_many_requests(self.pool.waiting), context)

    async def _execute(self, request: _Request, context: _Context) -> None:
        faults = self._host.faults
        method = request.method if isinstance(request.method, str) else ""
        named = isinstance(request.params, dict)
        params = cast("dict[str, Any]", request.params) if named else {}
        rules = faults.take(method, params, request.request_id, context.correlation_id)
        hit = {rule.action: rule for rule in rules}
        if Action.KILL_BEFORE in hit:
            self._kill()
            return
        for action in (Action.DROP_BEFORE, Action.BORN_LATE):
            if action in hit:
                context.origin.drop()
        if Action.DROP_BEFORE in hit:
            return
        outcome = await self._outcome(request, context, hit)
        if Action.KILL_AFTER in hit:
            self._kill()
            return
        if Action.DROP_AFTER in hit:
            context.origin.drop()
        if Action.HALF_OPEN in hit:
            context.origin.go_half_open()
        if Action.DELAY_ANSWER in hit:
            await asyncio.sleep(hit[Action.DELAY_ANSWER].seconds)
        if Action.LOSE_ANSWER in hit:
            self._reply_to.pop(request.request_id, None)
            text = outcome if isinstance(outcome, str) else outcome.message
            self._host.log.write("answer_lost", method=method, answer=text)
            return
        self._answer(request, outcome, context)

    async def _outcome(
        self, request: _Request, context: _Context, hit: dict[Action, Rule]
    ) -> str | errors.VdsmFault:
        faults = self._host.faults
        if asyncio.get_running_loop().time() < faults.starting_until:
            return errors.starting()
        method = request.method
        wait = sum(hit[a].seconds for a in (Action.DELAY, Action.BORN_LATE) if a in hit)
        wait += faults.slowness(method) if isinstance(method, str) else 0.0
        if wait:
            await asyncio.sleep(wait)
        if Action.REFUSE in hit:
            rule = hit[Action.REFUSE]
            return errors.VdsmFault(rule.code, rule.message)
        try:
            return await perform(self._host, method, request.params, context.correlation_id)
        except errors.VdsmFault as fault:
            return fault

    def _answer(
        self, request: _Request, outcome: str | errors.VdsmFault, context: _Context
    ) -> None:
        if request.request_id is None or not context.answered:
            return
        hashable = not _unhashable(request.request_id)
        destination = self._reply_to.pop(request.request_id, None) if hashable else None
        self._broker.publish(destination or RESPONSES, _body(request.request_id, outcome))

    def _fail(self, fault: errors.VdsmFault) -> None:
        self._broker.publish(RESPONSES, _body(None, fault))


def _read(item: Any) -> _Request:
    """The request, or the fault for what is not one."""
    if not isinstance(item, dict):
        raise errors.internal_error()
    fields = cast("dict[str, Any]", item)
    if fields.get("jsonrpc") != "2.0":
        raise errors.invalid_request(fields, "Wrong protocol version")
    if fields.get("method") is None:
        raise errors.invalid_request(fields, "missing method header in method")
    params = fields.get("params", {})
    if not isinstance(params, dict | list):
        raise errors.invalid_request(fields, "wrong params type")
    return _Request(fields.get("id"), fields["method"], params)


def _unhashable(request_id: Any) -> bool:
    return isinstance(request_id, dict | list)


def _body(request_id: Any, outcome: str | errors.VdsmFault) -> bytes:
    start = f'{{"jsonrpc": "2.0", "id": {json.dumps(request_id)}, '
    if isinstance(outcome, str):
        return f'{start}"result": {outcome}}}'.encode()
    error = json.dumps({"code": outcome.code, "message": outcome.message})
    return f'{start}"error": {error}}}'.encode()


def _report(error: BaseException) -> None:
    _log.error("an RPC worker failed", error=repr(error))
