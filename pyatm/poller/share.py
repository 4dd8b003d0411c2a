"""How many pools a poller should hold, so that pollers that come and go share them evenly."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

_HOLD: Final = 300.0
"""Seconds for which pools that nobody took stay with the poller that took them at last."""


@dataclass(frozen=True, slots=True)
class Census:
    """Pools and pollers at one moment.

    :param pools: all that are set.
    :param free: those that no poller holds.
    :param pollers: processes that are connected; a frozen one counts too.
    """

    pools: int
    free: int
    pollers: int


@dataclass(slots=True)
class FairShare:
    """Decides the limit from look to look.

    A pool must never stay without a poller because of fairness: what has been free for
    ``patience`` seconds is taken over the share, by whoever sees it.

    :param patience: seconds in which the others had their chance.
    """

    patience: float
    _free_since: float | None = field(default=None)
    _generous_until: float = field(default=0.0)

    def limit(self, census: Census, held: int, max_pools: int) -> int:
        """How many pools to hold now, ``max_pools`` at most."""
        now = time.monotonic()
        share = -(-census.pools // max(census.pollers, 1))
        if census.free == 0 or held < share:
            self._free_since = None
        elif self._free_since is None:
            self._free_since = now
        elif now - self._free_since >= self.patience:
            self._free_since = None
            self._generous_until = now + _HOLD
        return max_pools if now < self._generous_until else min(max_pools, share)
