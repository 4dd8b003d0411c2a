"""How long the lookup commands take with many live tasks: PYTHONPATH=. python bench/lookups.py.

Fills an own embedded server (100 000 tasks in 25 000 commands take a minute or two) and prints, for
each command with its default limit, the seconds to connect, ask and print.
"""

import argparse
import asyncio
import json
import statistics
import time

import psycopg
from typer.testing import CliRunner

from pyatm.cli.filters import Filter
from pyatm.cli.main import app
from pyatm.cli.top_source import Source
from pyatm.database.embedded import private_server
from pyatm.database.migrate import migrate
from tests.cli.mess import Mess, add_bad_pools, add_load, make_mess


def commands(mess: Mess) -> list[list[str]]:
    """Every lookup, alone and with each of its filters."""
    return [
        ["commands"],
        ["commands", "--roots", "--action", "RemoveVm"],
        ["commands", "--state", "end_failed"],
        ["commands", "--pool", "busy"],
        ["commands", "--pool", "pool"],
        ["commands", "--entity", f"VM:{mess.vm}"],
        ["tasks"],
        ["tasks", "--state", "in_doubt"],
        ["tasks", "--pool", "busy"],
        ["tasks", "--pool", "pool"],
        ["tasks", "--older-than", "1d"],
        ["tasks", "--command", str(mess.running)],
        ["entity", "VM", mess.vm],
        ["orphans"],
        ["stuck"],
        ["history"],
        ["explain", str(mess.running)],
        ["check"],
        ["settings"],
        ["audit"],
    ]


def main() -> None:
    """Fill, measure, print one JSON object per line."""
    parser = argparse.ArgumentParser(description="Time the lookup commands.")
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    with private_server(durable=False) as server:
        dsn = server.dsn()
        migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as db:
            mess = make_mess(db)
            started = time.perf_counter()
            add_load(db, given.tasks)
            add_bad_pools(db)
            db.execute("analyze")
            _say("fill", given.tasks, time.perf_counter() - started)
        _asked(["settings"], dsn)  # imports what the others need
        for arguments in commands(mess):
            took = [_asked([*arguments, "--json"], dsn) for _ in range(given.runs)]
            _say("pyatm " + " ".join(arguments), 0, statistics.median(took))
        for wanted in (Filter(), Filter(pool="busy"), Filter(pool="pool"), Filter(state="sealed")):
            seconds = asyncio.run(_refresh(dsn, wanted, given.runs))
            _say(f"refresh of pyatm top, {wanted.words() or 'everything'}", 0, seconds)


async def _refresh(dsn: str, wanted: Filter, runs: int) -> float:
    source = Source(dsn)
    try:
        return statistics.median([(await source.snapshot(wanted)).seconds for _ in range(runs)])
    finally:
        await source.close()


def _asked(arguments: list[str], dsn: str) -> float:
    """Seconds of one command without the start of the program: connect, ask, print."""
    started = time.perf_counter()
    done = CliRunner().invoke(app, arguments, env={"PYATM_DSN": dsn})
    took = time.perf_counter() - started
    if done.exit_code not in (0, 1) or isinstance(done.exception, psycopg.Error):
        raise SystemExit(f"{arguments}: {done.output} {done.exception!r}")
    return took


def _say(what: str, tasks: int, seconds: float) -> None:
    found: dict[str, object] = {"what": what, "seconds": round(seconds, 3)}
    if tasks:
        found["tasks"] = tasks
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
