"""Meters: processor time, WAL, round trips, transactions."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from threading import Lock
from typing import Any, LiteralString, Protocol

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]
TICKS = os.sysconf("SC_CLK_TCK")
START_TIMEOUT = 60.0
"""Seconds in which a subject must have ended its first command."""


def server_cpu(postmaster: int) -> float:
    """Seconds of processor time of a server: its processes, and those that have ended."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid = int(stat.parent.name)
            fields = stat.read_text(encoding="latin-1").rpartition(")")[2].split()
        except OSError:
            continue
        if pid == postmaster:
            total += sum(int(field) for field in fields[11:15])
        elif int(fields[1]) == postmaster:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


class Counter:
    """Counts over threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._commands = 0
        self._round_trips = 0

    def call(
        self, connection: Connection, sql: LiteralString, arguments: dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Run one prepared statement in a transaction of its own: one round trip."""
        with self._lock:
            self._round_trips += 1
        cursor = connection.execute(sql, arguments, prepare=True)
        return cursor.fetchall() if cursor.description else []

    def ended(self, commands: int = 1) -> None:
        """So many more commands are over and gone."""
        with self._lock:
            self._commands += commands

    def read(self) -> tuple[int, int, int]:
        """Commands that have ended, round trips, transactions; here the last two are the same."""
        with self._lock:
            return self._commands, self._round_trips, self._round_trips


class Subject(Protocol):
    """Something that runs commands in a closed loop."""

    counter: "Counter"

    def start(self, submitters: int) -> None:
        """Begin to run commands.

        Args:
            submitters: connections that plan and bind.
        """
        ...

    def stop(self) -> None:
        """End; raises what went wrong meanwhile."""
        ...

    def failed(self) -> bool:
        """Whether something has gone wrong, which `stop` will tell."""
        ...


@dataclass(frozen=True, slots=True)
class Sample:
    """What a subject did and took between two readings of the meters.

    Attributes:
        commands: that ended.
        seconds: wall time.
        client_cpu: seconds of this process.
        server_cpu: seconds of all processes of the server, its background ones too.
        wal: bytes.
        round_trips: between client and server, 0 when not counted.
        transactions: 0 when not counted.
    """

    commands: int
    seconds: float
    client_cpu: float
    server_cpu: float
    wal: int
    round_trips: int
    transactions: int

    @property
    def rate(self) -> float:
        """Commands per second."""
        return self.commands / self.seconds

    @property
    def cpu(self) -> float:
        """Seconds per command, client and server."""
        return (self.client_cpu + self.server_cpu) / max(self.commands, 1)


class Meter:
    """Reads the meters.

    Args:
        connection: of its own; it counts as the server's work, one small query per reading.
        postmaster: the server's process id.
    """

    def __init__(self, connection: Connection, postmaster: int) -> None:
        self._connection = connection
        self._postmaster = postmaster

    def sample(self, subject: Subject, seconds: float) -> Sample:
        """What a running subject does in so many seconds."""
        begin = self._read(subject)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not subject.failed():
            time.sleep(0.05)
        end = self._read(subject)
        commands, trips, transactions, wal = (end[n] - begin[n] for n in range(4))
        seconds, client, server = (end[n] - begin[n] for n in range(4, 7))
        counts = (int(wal), int(trips), int(transactions))
        return Sample(int(commands), seconds, client, server, *counts)

    def _read(self, subject: Subject) -> tuple[float, ...]:
        row = self._connection.execute(
            "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
        ).fetchone()
        wal = int(row[0]) if row else 0
        at = time.monotonic()
        counts = subject.counter.read()
        return *counts, wal, at, time.process_time(), server_cpu(self._postmaster)


def measured(
    subject: Subject, dsn: str, postmaster: int, submitters: int, seconds: float, warm_up: float
) -> Sample:
    """Start a subject, let it get into its stride, measure, stop it.

    Args:
        subject: not running.
        dsn: of the server, for the meter.
        postmaster: the server's process id.
        submitters: see `Subject.start`.
        seconds: measured.
        warm_up: seconds before that, after the first command has ended.

    Raises:
        TimeoutError: no command ended within a minute.
    """
    deadline = time.monotonic() + START_TIMEOUT
    with psycopg.connect(dsn, autocommit=True) as control:
        meter = Meter(control, postmaster)
        subject.start(submitters)
        try:
            while subject.counter.read()[0] == 0 and not subject.failed():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no command ended within {START_TIMEOUT:g} s")
                time.sleep(0.01)
            time.sleep(warm_up)
            return meter.sample(subject, seconds)
        finally:
            subject.stop()


def percentiles(values: list[float]) -> dict[str, float | None]:
    """Median and 99th percentile in milliseconds."""
    if len(values) < 2:
        return {"p50": None, "p99": None}
    cuts = quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49] * 1000, 3), "p99": round(cuts[98] * 1000, 3)}
