"""Sizes of tables and indexes over many commands, autovacuum as it comes: ``make bench-bloat``.

What matters shows after some minutes: the live tables reach a size and stay there. At the end they
are rewritten while the work goes on, which tells what the rows that live then need without any
room for updates and without what autovacuum has not yet taken away.
"""

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from bench.cluster import end_cleanly, running
from bench.compare import machine
from bench.report import DOCS, RESULTS, write
from bench.subjects import SUBJECTS
from pyatm.bench.lifecycle import OPEN, Lifecycle
from pyatm.bench.statements import load

SUBMITTERS = 8
FIRST = 2000
"""Commands before the first reading, which is to come before autovacuum does."""
SQL = load(Path(__file__).with_name("growth.sql"))
GROWING = ("history", "plan", "archived")
"""Tables whose names begin so hold what is kept."""


def main() -> None:
    """Measure, write the JSON and the page."""
    parser = argparse.ArgumentParser(prog="make bench-bloat")
    parser.add_argument("--commands", type=int, default=50_000, help="in all (50000)")
    parser.add_argument("--minutes", type=float, default=60.0, help="at most (60)")
    parser.add_argument("--points", type=int, default=10, help="how often sizes are read (10)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of the JSON")
    parser.add_argument("--docs", type=Path, default=DOCS, help="directory of the page")
    parser.add_argument("--directory", type=Path, help="where the cluster's files go")
    options = parser.parse_args()
    end_cleanly()
    options.results.mkdir(parents=True, exist_ok=True)
    given = " ".join(sys.argv[1:])
    with running(options.directory) as cluster:
        cluster.create("bloat")
        dsn = cluster.dsn("bloat")
        SUBJECTS["pyatm"].setup(dsn)
        answer: dict[str, Any] = {
            "command": f"make bench-bloat ARGS='{given}'" if given else "make bench-bloat",
            "measured": datetime.now(UTC).isoformat(timespec="minutes"),
            "machine": machine(cluster),
            "open": OPEN,
            "points": [],
        }
        work = Lifecycle(dsn)
        began = time.monotonic()
        deadline = began + options.minutes * 60
        work.start(SUBMITTERS)
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                for number in range(options.points + 1):
                    wanted = options.commands * number // options.points or min(
                        FIRST, options.commands // options.points
                    )
                    while work.counter.read()[0] < wanted and not work.failed():
                        if time.monotonic() > deadline:
                            break
                        time.sleep(0.1)
                    point = _point(connection, work.counter.read()[0], time.monotonic() - began)
                    answer["points"].append(point)
                    print(point, file=sys.stderr, flush=True)
                    if work.failed() or time.monotonic() > deadline:
                        break
                answer["packed"] = _packed(connection, answer["points"][-1]["live"])
        finally:
            work.stop()
        (options.results / "bloat.json").write_text(json.dumps(answer, indent=1) + "\n")
    print(f"page: {write(options.results, options.docs)}")


def _packed(connection: psycopg.Connection[Any], live: dict[str, int]) -> dict[str, int]:
    for name in live:
        connection.execute(f'VACUUM FULL atm_internal."{name}"'.encode())
    return {name: int(size) for name, size in connection.execute(SQL["sizes"]) if name in live}


def _point(connection: psycopg.Connection[Any], commands: int, seconds: float) -> dict[str, Any]:
    sizes = {name: int(size) for name, size in connection.execute(SQL["sizes"])}
    kept = {name for name in sizes if name.startswith(GROWING)}
    # The small ones that hold settings and texts are of no interest.
    names = ("root", "command", "task", "hold", "watch", "unknown", "suspect", "note")
    live = {name: sizes[name] for name in sizes if name.startswith(names) and name not in kept}
    return {
        "commands": commands,
        "seconds": round(seconds, 1),
        "live": live,
        "history": sum(sizes[name] for name in kept),
    }


if __name__ == "__main__":
    main()
