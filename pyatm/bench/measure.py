"""Meters: processor time, WAL, round trips, transactions."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from threading import Lock
from typing import Any, LiteralString

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]
TICKS = os.sysconf("SC_CLK_TCK")


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
        self.round_trips = 0
        self.transactions = 0

    def call(
        self, connection: Connection, sql: LiteralString, arguments: dict[str, Any]
    ) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own: one round trip."""
        with self._lock:
            self.round_trips += 1
            self.transactions += 1
        cursor = connection.execute(sql, arguments, prepare=True)
        return cursor.fetchall() if cursor.description else []


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of one subject took.

    Attributes:
        commands: that ended.
        seconds: wall time.
        cpu: seconds, client and server.
        wal: bytes.
        transactions: committed.
        round_trips: between client and server.
        waits: seconds from report committed to endAction claimed.
    """

    commands: int
    seconds: float
    cpu: float
    wal: int
    transactions: int
    round_trips: int
    waits: tuple[float, ...] = ()

    @property
    def rate(self) -> float:
        return self.commands / self.seconds


class Meter:
    """Reads the meters at the begin and the end of a run."""

    def __init__(self, connection: Connection, postmaster: int) -> None:
        self._connection = connection
        self._postmaster = postmaster
        self._begin = self._read()

    def _read(self) -> tuple[float, float, int]:
        row = self._connection.execute(
            "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
        ).fetchone()
        wal = int(row[0]) if row else 0
        return time.monotonic(), time.process_time() + server_cpu(self._postmaster), wal

    def sample(self, commands: int, counter: Counter, waits: list[float]) -> Sample:
        """The difference since the begin."""
        end = self._read()
        seconds, cpu = end[0] - self._begin[0], end[1] - self._begin[1]
        wal = end[2] - self._begin[2]
        return Sample(
            commands, seconds, cpu, wal, counter.transactions, counter.round_trips, tuple(waits)
        )


def percentiles(values: list[float]) -> dict[str, float | None]:
    """Median and 99th percentile in milliseconds."""
    if len(values) < 2:
        return {"p50": None, "p99": None}
    cuts = quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49] * 1000, 3), "p99": round(cuts[98] * 1000, 3)}
