"""The whole bench on an embedded server of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import psycopg

from pyatm.bench import probes
from pyatm.bench.floor import Floor
from pyatm.bench.lifecycle import Lifecycle
from pyatm.bench.measure import Sample, percentiles
from pyatm.bench.statements import load
from pyatm.database.embedded import EmbeddedServer, private_server
from pyatm.database.migrate import migrate

SETTINGS: Final = {
    # fsync stays on. Full page images depend on when checkpoints come, not on the workload.
    "full_page_writes": "off",
    "checkpoint_timeout": "1h",
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        commands: per run and subject, with 8 submitters; half of them with one.
        runs: paired runs of each subject.
        poll_tasks: running tasks of the report_poll probe.
        plan_tasks: tasks of the large plan.
        live_tasks: live tasks of the lookup probe, ascending.
        rounds: of each single call.
    """

    commands: int = 240
    runs: int = 3
    poll_tasks: int = 5000
    plan_tasks: int = 1000
    live_tasks: tuple[int, ...] = (1000, 100_000)
    rounds: int = 15


TINY: Final = Size(16, 2, 100, 20, (20, 40), 3)
"""Only shows that everything runs; its figures mean nothing."""


def run(size: Size, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run everything; the answer of `pyatm bench --json`.

    Args:
        size: how much.
        tell: takes one line of progress.

    Raises:
        EmbeddedServerError: the server cannot be started.
    """
    with private_server(settings=SETTINGS) as server:
        tell("a durable embedded server starts")
        dsn = server.dsn()
        migrate(dsn)
        sql = load()
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(sql["floor_schema"])
        answer: dict[str, Any] = {"workload": _workload(server, dsn, size, tell)}
        work = Lifecycle(dsn, server.pid or 0, "probes")
        tell("plan with many tasks")
        answer["plan_1000"] = probes.large_plan(dsn, work, sql, size.plan_tasks, size.rounds)
        tell("report_poll")
        answer["report_poll"] = probes.report_poll(dsn, work, sql, size.poll_tasks, size.rounds)
        tell("entity lookups")
        live = list(size.live_tasks)
        answer["lookup"] = probes.lookup(dsn, work, sql, live, size.rounds * 20)
    return answer


def _workload(
    server: EmbeddedServer, dsn: str, size: Size, tell: Callable[[str], None]
) -> dict[str, Any]:
    pid = server.pid or 0
    sql = load()
    floor = Floor(dsn, sql, pid, minimal=False)
    floor_min = Floor(dsn, sql, pid, minimal=True)
    ours = Lifecycle(dsn, pid)
    idle = percentiles(ours.idle_waits(size.commands // 6))
    answer: dict[str, Any] = {}
    for submitters in (1, 8):
        commands = size.commands if submitters > 1 else size.commands // 2
        trios: list[tuple[Sample, Sample, Sample]] = []
        for number in range(size.runs):
            tell(f"workload, {submitters} submitters, run {number + 1} of {size.runs}")
            # In one breath, so that what else the machine does meets all three.
            trios.append(
                (
                    floor.run(submitters, commands),
                    floor_min.run(submitters, commands),
                    ours.run(submitters, commands),
                )
            )
        answer[f"submitters_{submitters}"] = {**_compare(trios), "ready_to_claimed_ms": idle}
    return answer


def _compare(trios: list[tuple[Sample, Sample, Sample]]) -> dict[str, Any]:
    def middle(values: list[float], digits: int = 2) -> float:
        return round(median(values), digits)

    return {
        "ratio_to_floor": middle([o.rate / f.rate for f, _, o in trios]),
        "ratio_to_floor_min": middle([o.rate / m.rate for _, m, o in trios]),
        "floor_min_to_floor": middle([m.rate / f.rate for f, m, _ in trios]),
        "commands_per_second": middle([o.rate for _, _, o in trios], 1),
        "floor_commands_per_second": middle([f.rate for f, _, _ in trios], 1),
        "cpu_ratio": middle(
            [(o.cpu / o.commands) / max(f.cpu / f.commands, 1e-9) for f, _, o in trios]
        ),
        "cpu_ms": middle([o.cpu / o.commands * 1000 for _, _, o in trios]),
        "floor_cpu_ms": middle([f.cpu / f.commands * 1000 for f, _, _ in trios]),
        "transactions": middle([o.transactions / o.commands for _, _, o in trios]),
        "round_trips": middle([o.round_trips / o.commands for _, _, o in trios]),
        "wal_bytes": middle([o.wal / o.commands for _, _, o in trios], 0),
        "floor_wal_bytes": middle([f.wal / f.commands for f, _, _ in trios], 0),
    }
