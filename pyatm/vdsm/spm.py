"""Which of several hosts is the SPM of a storage pool."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pyatm.vdsm.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyatm.vdsm.client import VdsmClient


async def find_spm(
    clients: Sequence[VdsmClient], pool_id: str, *, timeout: float, settle: float = 1.0
) -> VdsmClient | None:
    """Ask all hosts at once; None when no host says that it is SPM.

    A fenced SPM may not know yet that it is none: of several the one with the highest ``lver``.

    :param timeout: seconds for the whole search.
    :param settle: seconds that the others get once one host has claimed the role.
    """

    async def lver(client: VdsmClient) -> tuple[VdsmClient, int] | None:
        try:
            status = await client.pool.get_spm_status(pool_id, timeout=timeout)
        except CallError:
            return None
        return (client, status.lver) if status.is_spm else None

    pending = {asyncio.ensure_future(lver(client)) for client in clients}
    found: list[tuple[VdsmClient, int]] = []
    try:
        while pending:
            wait = settle if found else timeout
            done, pending = await asyncio.wait(
                pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            found += [answer for task in done if (answer := task.result()) is not None]
    finally:
        for task in pending:
            task.cancel()
    best = max(found, key=lambda each: each[1], default=None)
    return None if best is None else best[0]
