"""What one poller costs with many pools of running tasks: CPU, memory, lateness, database writes.

Run it with ``.venv/bin/python bench/poller_pools.py`` (200 pools of 100 tasks each). The simulated
hosts are one process, the poller is another, PostgreSQL (durable, embedded) the third; all of them
share the machine, so the figures are above those of a poller that has its processors alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import structlog
from psycopg.conninfo import make_conninfo

from pyatm.database.embedded import private_server
from pyatm.database.migrate import migrate
from pyatm.simulator.plans import JobPlan
from pyatm.simulator.server import Simulator
from pyatm.simulator.settings import SimulatorSettings
from pyatm.vdsm import Address, VdsmClient

DOMAIN = str(uuid.uuid4())
MEMORY = Path("/dev/shm")
SETTLING = 40.0
"""Seconds until every pool is polled at the longest interval, 10 s."""
WRITES = (
    "select relname, n_tup_ins + n_tup_upd + n_tup_del, n_tup_hot_upd from pg_stat_all_tables"
    " where schemaname = 'atm_internal'"
)


async def hosts(directory: Path, pools: list[str], tasks: int) -> None:
    """One host per pool with its tasks, until standard input ends; says where they are."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    async with AsyncExitStack() as stack:
        places: list[dict[str, Any]] = []
        for number, pool in enumerate(pools):
            settings = SimulatorSettings(
                directory=directory / str(number),
                pools=(pool,),
                spm=True,
                plan=JobPlan(shortest=None),
            )
            host = await stack.enter_async_context(Simulator(settings))
            async with VdsmClient(Address("127.0.0.1", host.port)) as client:
                made = [
                    await client.image.delete(str(uuid.uuid4()), pool_id=pool, domain_id=DOMAIN)
                    for _ in range(tasks)
                ]
            places.append({"pool": pool, "port": host.port, "tasks": made})
        print(json.dumps(places), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def prepare(db: psycopg.Connection[Any], places: list[dict[str, Any]]) -> None:
    """Pools, and a command with bound tasks for each."""
    row = db.execute("select atm.start_engine('bench')").fetchone()
    assert row is not None
    for place in places:
        pool, made = place["pool"], place["tasks"]
        address = json.dumps([{"address": "127.0.0.1", "port": place["port"]}])
        db.execute("select atm.set_pool(%s, %s, %s)", [pool, pool, address])
        ids = [str(uuid.uuid4()) for _ in made]
        tasks = [
            {"task_id": task, "task_type": "t", "storage_pool_id": pool, "submit": True}
            for task in ids
        ]
        plan = {"command_id": str(uuid.uuid4()), "action_type": "RemoveVm", "tasks": tasks}
        with db.transaction():
            db.execute("select from atm.plan_command(%s, %s)", [row[0], json.dumps(plan)])
            for task, vdsm_id in zip(ids, made, strict=True):
                db.execute("select from atm.bind_task(%s, %s, %s)", [row[0], task, vdsm_id])


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def page(port: int) -> dict[str, float]:
    """The poller's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def quantile(share: float, before: dict[str, float], after: dict[str, float], name: str) -> str:
    """The bucket of a histogram below which that share of the new samples lies."""
    prefix = f'{name}_bucket{{le="'
    new = {
        key.removeprefix(prefix).removesuffix('"}'): after[key] - before[key]
        for key in after
        if key.startswith(prefix)
    }
    return next(f"<= {limit} s" for limit, n in new.items() if n >= share * new["+Inf"])


def written(db: psycopg.Connection[Any]) -> dict[str, tuple[int, int]]:
    """Rows written, and those of them that were HOT updates, by table."""
    # Sessions tell what they did after a second at the earliest.
    time.sleep(2)
    return {name: (n, hot) for name, n, hot in db.execute(WRITES.encode()).fetchall()}


def measure(dsn: str, db: psycopg.Connection[Any], pools: int, seconds: float) -> dict[str, Any]:
    """Start a poller, let it settle, look at it for a while."""
    child = subprocess.Popen(
        [sys.executable, "-m", "pyatm.cli.main", "poller", "--json", "--exit-with-parent"],
        env={
            **os.environ,
            "PYATM_DSN": make_conninfo(dsn, options="-c role=atm_poller"),
            "PYATM_VDSM__TLS": "false",
            "PYATM_POLLER__METRICS_PORT": "0",
            "PYATM_POLLER__MAX_POOLS": str(pools),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    port = json.loads(child.stdout.readline())["metrics_port"]
    time.sleep(SETTLING)
    rows, figures, used = written(db), page(port), processor_seconds(child.pid)
    wal = db.execute("select pg_current_wal_lsn()").fetchone()
    begun = time.monotonic()
    time.sleep(seconds)
    passed = time.monotonic() - begun
    rows_after, after = written(db), page(port)
    used = processor_seconds(child.pid) - used
    wal_bytes = db.execute("select pg_current_wal_lsn() - %s", [wal and wal[0]]).fetchone()
    polls = after['pyatm_polls_total{listed="yes"}'] - figures['pyatm_polls_total{listed="yes"}']
    failed = after.get('pyatm_polls_total{listed="no"}', 0)
    changed = {
        name: (n - rows[name][0], hot - rows[name][1])
        for name, (n, hot) in rows_after.items()
        if n != rows.get(name, (0, 0))[0]
    }
    result = {
        "pools": int(after["pyatm_pools"]),
        "polls_per_second": round(polls / passed, 1),
        "polls_that_failed": int(failed),
        "poller_cpu_percent": round(100 * used / passed, 1),
        "cpu_ms_per_poll": round(1000 * used / polls, 2),
        "resident_mib": round(resident_mib(child.pid), 1),
        "poll_p50": quantile(0.5, figures, after, "pyatm_poll_seconds"),
        "poll_p99": quantile(0.99, figures, after, "pyatm_poll_seconds"),
        "lateness_p99": quantile(0.99, figures, after, "pyatm_poll_lateness_seconds"),
        "rows_written": {name: n for name, (n, _) in changed.items()},
        "rows_per_poll": round(sum(n for n, _ in changed.values()) / polls, 3),
        "hot_share": round(
            sum(hot for _, hot in changed.values()) / max(sum(n for n, _ in changed.values()), 1), 3
        ),
        "wal_bytes_per_poll": round(float(wal_bytes[0]) / polls) if wal_bytes else None,
    }
    child.terminate()
    child.wait(60)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pools", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=100, help="running tasks per pool")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--hosts", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hosts is not None:
        pools = json.loads((given.hosts / "pools.json").read_text())
        asyncio.run(hosts(given.hosts, pools, given.tasks))
        return
    with (
        # In memory where there is such a place: the simulators' files are not what is measured.
        tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name,
        private_server() as server,
    ):
        directory = Path(name)
        (directory / "pools.json").write_text(
            json.dumps([str(uuid.uuid4()) for _ in range(given.pools)])
        )
        migrate(server.dsn())
        simulated = subprocess.Popen(
            [sys.executable, __file__, "--hosts", name, "--tasks", str(given.tasks)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert simulated.stdout is not None
            places = json.loads(simulated.stdout.readline())
            with psycopg.connect(server.dsn(), autocommit=True) as db:
                prepare(db, places)
                used = processor_seconds(simulated.pid)
                result = measure(server.dsn(), db, given.pools, given.seconds)
                result["simulator_cpu_seconds"] = round(processor_seconds(simulated.pid) - used, 1)
                # Before the directories of all the tasks are removed, which takes its time.
                print(json.dumps({"tasks_per_pool": given.tasks, **result}, indent=2), flush=True)
        finally:
            simulated.kill()
            simulated.wait()


if __name__ == "__main__":
    main()
