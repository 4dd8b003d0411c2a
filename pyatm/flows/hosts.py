"""The hosts of a storage pool as an engine sees them: creating verbs go to the SPM."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from pyatm.config import Settings
from pyatm.poller.daemon import client_for
from pyatm.vdsm import (
    Address,
    CallError,
    NotSent,
    NotSpm,
    Sending,
    VdsmClient,
)
from pyatm.vdsm.spm import find_spm

Connect = Callable[[Address], VdsmClient]


def connector(settings: Settings) -> Connect:
    """Makes clients as the settings say; the poller's are made the same way.

    The first client raises `ValueError` when TLS is on and no CA is named.
    """
    return lambda address: client_for(address, settings)


class Hosts:
    """Clients of the hosts of one pool, kept for as long as late answers may come.

    Args:
        storage_pool_id: the pool.
        addresses: its hosts.
        connect: makes a client.
    """

    def __init__(
        self, storage_pool_id: UUID, addresses: Sequence[Address], connect: Connect
    ) -> None:
        self._pool = str(storage_pool_id)
        self._clients = [connect(address) for address in addresses]
        self._spm: VdsmClient | None = None
        self._called: VdsmClient | None = None

    async def create_task(self, method: str, params: Mapping[str, Any], sending: Sending) -> str:
        """Send a creating verb to the SPM; returns VDSM's task id.

        Error 654 means that nothing was executed: the SPM is then looked for again, once.

        Raises:
            Refused, NotSent, Unknown: as `VdsmClient.create_task`.
        """
        for last in (False, True):
            spm = await self._find(method, sending)
            self._called = spm
            try:
                return await spm.create_task(
                    method,
                    params,
                    timeout=sending.timeout,
                    correlation_id=sending.correlation_id,
                    send_by=sending.send_by,
                )
            except NotSpm:
                self._spm = None
                if last:
                    raise
            finally:
                self._called = None
        raise AssertionError("unreachable")

    async def call(self, method: str, params: Mapping[str, Any], *, correlation_id: str) -> None:
        """Call a verb of the host that runs the VM: the first host that knows the VM.

        Raises:
            Refused: no host knows the VM, or its host refuses.
            NotSent, Unknown: as `VdsmClient.call`.
        """
        error: CallError | None = None
        for client in self._clients:
            self._called = client
            try:
                await client.call(method, params, slow=True, correlation_id=correlation_id)
            except CallError as refused:
                if getattr(refused, "code", None) != 1:  # 1: the VM is not on this host
                    raise
                error = refused
            else:
                return
            finally:
                self._called = None
        raise error or NotSent(method, "", "the pool has no hosts")

    @property
    def waiting(self) -> bool:
        """A verb was sent and is not answered yet."""
        return self._called is not None and self._called.state.in_flight > 0

    async def close(self) -> None:
        """End all connections."""
        for client in self._clients:
            await client.close()

    async def _find(self, method: str, sending: Sending) -> VdsmClient:
        if self._spm is None:
            left = 30.0 if sending.send_by is None else sending.send_by - time.monotonic()
            found = await find_spm(self._clients, self._pool, timeout=max(left, 0.001))
            if found is None:
                raise NotSent(method, "", f"not sent: no host of pool {self._pool} is its SPM")
            self._spm = found
        return self._spm
