"""Which host of a pool is SPM, and the list of its tasks."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from pyatm.vdsm import CallError, NotSpm, Refused, VdsmClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pyatm.vdsm import Address, SpmStatus

OTHER_ANSWERS: Final = 1.0
"""Seconds that the other hosts get to answer once one has said that it is SPM."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Listing:
    """What one poll of a pool found.

    :param client: of the SPM, None when no host says that it is SPM.
    :param spm: ``{"host", "spm_id", "lver"}`` for the report.
    :param statuses: the tasks as JSON text, None when the listing says nothing.
    :param problem: why not, in words.
    """

    client: VdsmClient | None = None
    spm: dict[str, Any] | None = None
    statuses: str | None = None
    problem: str | None = None


@dataclass(slots=True)
class Breaker:
    """Leaves a host that does not answer alone, for longer each time."""

    failures: int = 0
    closed_at: float = field(default=0.0)  # monotonic seconds from which it may be asked again

    @property
    def open(self) -> bool:
        """The host is not to be asked now."""
        return time.monotonic() < self.closed_at

    def failed(self) -> None:
        """It did not answer."""
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self.failures)
        self.failures = min(self.failures + 1, 30)
        pause = random.uniform(longest / 2, longest)  # noqa: S311 (spreads load only)
        self.closed_at = time.monotonic() + pause

    def worked(self) -> None:
        """It answered."""
        self.failures, self.closed_at = 0, 0.0


class SpmFinder:
    """The hosts of one pool, and which of them is SPM.

    Connections are kept to the SPM only; those to the other hosts last as long as a search.

    :param pool_id: the storage pool.
    :param connect: makes a client for an address.
    :param observe: told the method and outcome of every request, for the metrics.
    """

    def __init__(
        self,
        pool_id: str,
        connect: Callable[[Address], VdsmClient],
        observe: Callable[[str, str], None],
    ) -> None:
        self._pool_id, self._connect, self._observe = pool_id, connect, observe
        self._hosts: tuple[Address, ...] = ()
        self._clients: dict[Address, VdsmClient] = {}
        self._breakers: dict[Address, Breaker] = {}
        self._spm: Address | None = None
        self._log = structlog.get_logger(__name__).bind(storage_pool_id=pool_id)

    def set_hosts(self, hosts: Sequence[Address]) -> None:
        """The hosts to look at from now on."""
        self._hosts = tuple(hosts)
        if self._spm not in self._hosts:
            self._spm = None

    @property
    def open_breakers(self) -> int:
        """Hosts that are being left alone."""
        return sum(breaker.open for breaker in self._breakers.values())

    async def close(self) -> None:
        """End all connections."""
        await self._drop(list(self._clients))

    async def list_tasks(self) -> Listing:
        """Ask the SPM for all its tasks, between two looks at its role.

        Only if both looks show the same incarnation do the statuses count: a list taken while the
        role moved may lack tasks that VDSM has not loaded yet.
        """
        before = await self._find()
        if before is None:
            return Listing(problem="no host says that it is SPM")
        address, status = before
        client = self._client(address)
        spm = {"host": str(address), "spm_id": status.spm_id, "lver": status.lver}
        try:
            statuses = await client.host.get_all_tasks_statuses()
            self._observe("Host.getAllTasksStatuses", "answered")
        except CallError as error:
            self._failed(address, error, "Host.getAllTasksStatuses")
            return Listing(client, spm, None, f"the list did not come: {error}")
        after = await self._status(address)
        if after is None or (after.role, after.lver, after.spm_id) != (
            status.role,
            status.lver,
            status.spm_id,
        ):
            self._spm = None
            return Listing(client, spm, None, "the SPM role moved during the listing")
        return Listing(client, spm, statuses.for_jsonb())

    async def _find(self) -> tuple[Address, SpmStatus] | None:
        if self._spm is not None and not self._breaker(self._spm).open:
            status = await self._status(self._spm)
            if status is not None and status.is_spm:
                return self._spm, status
        former, self._spm = self._spm, None
        found = await self._search()
        if found is None:
            return None
        self._spm = found[0]
        if former != self._spm:
            self._log.info("SPM found", host=str(self._spm), lver=found[1].lver)
        await self._drop([address for address in self._clients if address != self._spm])
        return found

    async def _search(self) -> tuple[Address, SpmStatus] | None:
        asked = {
            asyncio.ensure_future(self._status(address)): address
            for address in self._hosts
            if not self._breaker(address).open
        }
        found: list[tuple[Address, SpmStatus]] = []
        pending = set(asked)
        try:
            while pending:
                # Once one claims the role, a hung host must not delay the poll.
                done, pending = await asyncio.wait(
                    pending,
                    timeout=OTHER_ANSWERS if found else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    break
                for task in done:
                    status = task.result()
                    if status is not None and status.is_spm:
                        found.append((asked[task], status))
        finally:
            for task in pending:
                task.cancel()
        # A fenced SPM may not know yet that it is none: the higher incarnation is the right one.
        return max(found, key=lambda each: each[1].lver, default=None)

    async def _status(self, address: Address) -> SpmStatus | None:
        try:
            status = await self._client(address).pool.get_spm_status(self._pool_id)
        except CallError as error:
            self._failed(address, error, "StoragePool.getSpmStatus")
            return None
        self._observe("StoragePool.getSpmStatus", "answered")
        self._breaker(address).worked()
        return status

    def _failed(self, address: Address, error: CallError, method: str) -> None:
        self._observe(method, type(error).__name__)
        breaker = self._breaker(address)
        if isinstance(error, NotSpm) and address == self._spm:
            self._spm = None
        if isinstance(error, Refused):
            breaker.worked()  # it lives
            return
        breaker.failed()
        if breaker.failures == 1:
            self._log.warning("host does not answer", host=str(address), error=str(error))

    def _breaker(self, address: Address) -> Breaker:
        return self._breakers.setdefault(address, Breaker())

    def _client(self, address: Address) -> VdsmClient:
        if address not in self._clients:
            self._clients[address] = self._connect(address)
        return self._clients[address]

    async def _drop(self, addresses: Iterable[Address]) -> None:
        clients = [self._clients.pop(address) for address in addresses]
        await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)
