"""What Prometheus can read about a poller."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pyatm.poller.database import Figure

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class _Ages:
    """Seconds since the last listing of each pool, computed when somebody reads them."""

    def __init__(self, listed_at: Mapping[str, float]) -> None:
        self._listed_at = listed_at

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "pyatm_poll_age_seconds",
            "Seconds since the tasks of the pool were last listed, or since it was leased.",
            labels=["storage_pool_id"],
        )
        now = time.monotonic()
        for pool, at in list(self._listed_at.items()):
            family.add_metric([pool], now - at)
        yield family


class _Figures:
    """The database's figures of the last look, under the names that it gives them.

    Figures that are old are left out: a gauge that stands still looks like a database at rest.
    """

    def __init__(self) -> None:
        self._figures: dict[str, list[Figure]] = {}
        self._good_until = 0.0

    def set(self, figures: Sequence[Figure], good_for: float) -> None:
        """Replace them all; ``good_for`` is in seconds."""
        by_name: dict[str, list[Figure]] = {}
        for figure in figures:
            by_name.setdefault(figure.name, []).append(figure)
        self._figures, self._good_until = by_name, time.monotonic() + good_for

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if time.monotonic() > self._good_until:
            return
        for name, figures in self._figures.items():
            labels = [key for key, _ in figures[0].labels]
            family = GaugeMetricFamily(name, "From atm.metrics() in the database.", labels=labels)
            for figure in figures:
                family.add_metric([text for _, text in figure.labels], figure.value)
            yield family


class Metrics:
    """The poller's counters; each object has a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._listed_at: dict[str, float] = {}
        self.pools = Gauge("pyatm_pools", "Storage pools leased.", registry=self.registry)
        self.stale = Counter(
            "pyatm_stale_lease_total",
            "Calls that the database refused because the pool is another poller's by now.",
            registry=self.registry,
        )
        self.database_errors = Counter(
            "pyatm_database_errors_total",
            "Looks for pools that failed, and listening connections that were lost.",
            registry=self.registry,
        )
        self._connections = Counter(
            "pyatm_database_connections_total",
            "Connections made to the database; more than at the start are reconnects.",
            ["purpose"],
            registry=self.registry,
        )
        self._leases = Counter(
            "pyatm_lease_changes_total",
            "Pools taken and given up.",
            ["change"],
            registry=self.registry,
        )
        self._wakeups = Counter(
            "pyatm_wakeups_total",
            "Looks for pools and work, by what caused them.",
            ["cause"],
            registry=self.registry,
        )
        self._requests = Counter(
            "pyatm_vdsm_requests_total",
            "Requests to VDSM by method and outcome.",
            ["method", "outcome"],
            registry=self.registry,
        )
        self._polls = Counter(
            "pyatm_polls_total",
            "Polls by whether the tasks could be listed.",
            ["listed"],
            registry=self.registry,
        )
        self._duration = Histogram(
            "pyatm_poll_seconds",
            "Duration of a poll, from the look at the clock to the end of the report.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._lateness = Histogram(
            "pyatm_poll_lateness_seconds",
            "How much later than planned a poll began that nothing had hurried.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._open = Gauge(
            "pyatm_open_tasks",
            "Tasks of the pool that still need the poller.",
            ["storage_pool_id"],
            registry=self.registry,
        )
        self.registry.register(cast("Any", _Ages(self._listed_at)))
        self._figures = _Figures()
        self.registry.register(cast("Any", self._figures))

    def serve(self, address: str, port: int) -> int:
        """Serve `/metrics`; returns the port. Raises OSError when it cannot be had."""
        server, _ = start_http_server(port, addr=address, registry=self.registry)
        return int(server.server_port)

    def request(self, method: str, outcome: str) -> None:
        """A request to VDSM is over."""
        self._requests.labels(method, outcome).inc()

    def woken(self, cause: str) -> None:
        """A look for work, caused by `notify` or `rescan`."""
        self._wakeups.labels(cause).inc()

    def connected(self, purpose: str) -> None:
        """A connection to the database was made, for `calls` or to `listen`."""
        self._connections.labels(purpose).inc()

    def figures(self, figures: Sequence[Figure], good_for: float) -> None:
        """What `atm.metrics()` says; shown for ``good_for`` seconds at most."""
        self._figures.set(figures, good_for)

    def polled(self, pool: str, seconds: float, listed: bool) -> None:
        """A poll is over."""
        self._duration.observe(seconds)
        self._polls.labels("yes" if listed else "no").inc()
        if listed:
            self._listed_at[pool] = time.monotonic()

    def late(self, seconds: float) -> None:
        """A poll begins this much after its time."""
        self._lateness.observe(seconds)

    def leased(self, pool: str) -> None:
        """A pool was taken."""
        self._leases.labels("taken").inc()
        self._listed_at[pool] = time.monotonic()

    def open_tasks(self, pool: str, count: int) -> None:
        """What the last look at the database said."""
        self._open.labels(pool).set(count)

    def given_up(self, pool: str) -> None:
        """A pool is not ours any more."""
        self._leases.labels("given_up").inc()
        self._listed_at.pop(pool, None)
        self._open.remove_by_labels({"storage_pool_id": pool})
