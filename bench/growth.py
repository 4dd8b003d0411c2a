"""How cost grows with what is there: ``make bench-growth``.

Lookups with 1 000, 100 000 and 1 000 000 live tasks beside a bare index probe; commands per second
of 8 submitters with so many live tasks of other commands, on so many pools, over such a history,
and with so many submitters, each beside the floor on the same database. Filling a million tasks
takes a while: ``--live 1000,100000`` is quick.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from bench.cluster import Cluster, end_cleanly, running
from bench.compare import machine
from bench.report import DOCS, RESULTS, write
from bench.subjects import SUBJECTS
from pyatm.bench import probes
from pyatm.bench.floor import PARAMETERS, Floor
from pyatm.bench.lifecycle import Lifecycle
from pyatm.bench.measure import Subject, measured
from pyatm.bench.statements import load

CALLS = 300
SERVER = {"shared_buffers": "2GB"}
"""A million live tasks are 1.3 GB with their indexes: this is about them, not about the disk."""
SQL = load(Path(__file__).with_name("growth.sql"))


def main() -> None:
    """Measure, write the JSON and the page."""
    parser = argparse.ArgumentParser(prog="make bench-growth")
    parser.add_argument("--live", default="1000,10000,100000,1000000", help="live tasks")
    parser.add_argument("--pools", default="1,4,16", help="storage pools")
    parser.add_argument("--history", default="1000,100000,1000000", help="rows of the history")
    parser.add_argument("--submitters", default="1,2,4,8,16", help="connections of the engine")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement (4)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of the JSON")
    parser.add_argument("--docs", type=Path, default=DOCS, help="directory of the page")
    parser.add_argument("--directory", type=Path, help="where the cluster's files go")
    options = parser.parse_args()
    end_cleanly()
    options.results.mkdir(parents=True, exist_ok=True)
    given = " ".join(sys.argv[1:])
    with running(options.directory, SERVER) as cluster:
        answer: dict[str, Any] = {
            "command": f"make bench-growth ARGS='{given}'" if given else "make bench-growth",
            "measured": datetime.now(UTC).isoformat(timespec="minutes"),
            "machine": machine(cluster),
            "shared_buffers": SERVER["shared_buffers"],
            "seconds": options.seconds,
        }

        def save(**more: Any) -> None:
            answer.update(more)
            (options.results / "growth.json").write_text(json.dumps(answer, indent=1) + "\n")
            print(f"page: {write(options.results, options.docs)}", file=sys.stderr, flush=True)

        bench = Growth(cluster, options.seconds)
        save(submitters=bench.submitters(_numbers(options.submitters)))
        save(pools=bench.pools(_numbers(options.pools)))
        save(history=bench.history(_numbers(options.history)))
        live, loaded = bench.live(_numbers(options.live))
        save(live=live, under_load=loaded)


def _numbers(text: str) -> list[int]:
    return sorted(int(part) for part in text.split(","))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Growth:
    """Each curve on a database of its own.

    Args:
        cluster: the server.
        seconds: of each measurement.
    """

    def __init__(self, cluster: Cluster, seconds: float) -> None:
        self._cluster, self._seconds = cluster, seconds

    def _database(self, name: str) -> str:
        self._cluster.create(name)
        dsn = self._cluster.dsn(name)
        for subject in ("floor", "pyatm"):
            SUBJECTS[subject].setup(dsn)
        return dsn

    def _point(self, size: int, subject: Subject, dsn: str, submitters: int = 8) -> dict[str, Any]:
        """The subject and, right before it, the floor on the same database."""
        floor = Floor(dsn, load(), minimal=False)
        least, sample = (
            measured(one, dsn, self._cluster.postmaster, submitters, self._seconds, 1.0)
            for one in (floor, subject)
        )
        _tell(
            f"  {size:,}: {sample.rate:.0f} commands/s, {sample.cpu * 1000:.1f} ms;"
            f" floor {least.rate:.0f} commands/s, {least.cpu * 1000:.1f} ms"
        )
        return {
            "size": size,
            "rate": round(sample.rate, 1),
            "cpu_ms": round(sample.cpu * 1000, 2),
            "floor_rate": round(least.rate, 1),
            "floor_cpu_ms": round(least.cpu * 1000, 2),
        }

    def submitters(self, sizes: list[int]) -> list[dict[str, Any]]:
        """Commands per second over the number of submitters."""
        _tell("submitters")
        dsn = self._database("submitters")
        work = Lifecycle(dsn)
        return [self._point(size, work, dsn, size) for size in sizes]

    def pools(self, sizes: list[int]) -> list[dict[str, Any]]:
        """8 submitters over several pools, each polled by itself."""
        _tell("pools")
        dsn = self._database("pools")
        return [self._point(size, Lifecycle(dsn, f"over {size}", size), dsn) for size in sizes]

    def history(self, sizes: list[int]) -> list[dict[str, Any]]:
        """8 submitters over a history of so many commands."""
        _tell("rows in the history")
        dsn = self._database("history")
        work = Lifecycle(dsn)
        points: list[dict[str, Any]] = []
        for size in sizes:
            with psycopg.connect(dsn, autocommit=True) as connection:
                # A few real ones, then copies of them.
                measured(work, dsn, self._cluster.postmaster, 8, 1.0, 0.0)
                connection.execute(SQL["copy_history"], {"rows": size})
                connection.execute("VACUUM ANALYZE")
            points.append(self._point(size, work, dsn))
        return points

    def live(self, sizes: list[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Lookups, and 8 submitters, beside so many planned tasks of other commands."""
        _tell("live tasks")
        dsn = self._database("live")
        sql = load()
        filled = Lifecycle(dsn, "others")
        work = Lifecycle(dsn)
        entities: list[Any] = []
        lookups: list[dict[str, Any]] = []
        loaded: list[dict[str, Any]] = []
        for size in sizes:
            with psycopg.connect(dsn, autocommit=True) as connection:
                missing = {"commands": (size - len(entities)) // 4, "parameters": Jsonb(PARAMETERS)}
                connection.execute(SQL["fill_floor"], missing)
                entities += probes.fill(connection, filled, sql, size - len(entities))
            # Looked up on a new connection: plans that were cached for small tables are not kept.
            with psycopg.connect(dsn, autocommit=True) as connection:
                found = probes.lookup_once(connection, sql, entities, CALLS)
            _tell(f"  {size:,} live tasks: lookup {found}")
            lookups.append({"tasks": size, **found})
            loaded.append(self._point(size, work, dsn))
        return lookups, loaded


if __name__ == "__main__":
    main()
