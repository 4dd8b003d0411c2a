"""Locks of storage resources: shared or exclusive, granted in the order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from pyatm.simulator import errors


@dataclass(frozen=True, slots=True)
class LockRequest:
    """One resource that a verb wants: its name, and whether alone."""

    resource: str
    exclusive: bool


@dataclass(slots=True)
class _Resource:
    shared: int = 0
    exclusive: bool = False
    waiting: deque[tuple[LockRequest, asyncio.Future[None]]] = field(
        default_factory=deque[tuple[LockRequest, "asyncio.Future[None]"]]
    )

    def free_for(self, request: LockRequest) -> bool:
        return not self.exclusive and not (request.exclusive and self.shared)


class ResourceLocks:
    """All locks of one VDSM.

    Args:
        timeout: seconds that a request may wait before it fails with error 851.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._resources: dict[str, _Resource] = {}

    async def acquire(self, requests: tuple[LockRequest, ...]) -> None:
        """Take all of them, in order of name; on error 851 none is kept."""
        taken: list[LockRequest] = []
        try:
            for request in sorted(requests, key=lambda r: r.resource):
                await self._acquire(request)
                taken.append(request)
        except BaseException:
            self.release(tuple(taken))
            raise

    def release(self, requests: tuple[LockRequest, ...]) -> None:
        """Give back what :meth:`acquire` took."""
        for request in requests:
            resource = self._resources[request.resource]
            if request.exclusive:
                resource.exclusive = False
            else:
                resource.shared -= 1
            self._grant(request.resource)

    async def _acquire(self, request: LockRequest) -> None:
        resource = self._resources.setdefault(request.resource, _Resource())
        if not resource.waiting and resource.free_for(request):
            self._take(resource, request)
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (request, granted)
        resource.waiting.append(entry)
        try:
            await asyncio.wait_for(asyncio.shield(granted), self.timeout)
        except BaseException as error:
            if granted.done() and not granted.cancelled():
                # Granted in the same instant in which the wait was given up.
                self.release((request,))
            else:
                resource.waiting.remove(entry)
                granted.cancel()
                self._grant(request.resource)
            if isinstance(error, TimeoutError):
                raise errors.resource_timeout() from None
            raise

    def _grant(self, name: str) -> None:
        resource = self._resources[name]
        while resource.waiting and resource.free_for(resource.waiting[0][0]):
            request, granted = resource.waiting.popleft()
            if not granted.done():
                self._take(resource, request)
                granted.set_result(None)
        if not resource.waiting and not resource.shared and not resource.exclusive:
            self._resources.pop(name, None)

    @staticmethod
    def _take(resource: _Resource, request: LockRequest) -> None:
        if request.exclusive:
            resource.exclusive = True
        else:
            resource.shared += 1
