"""The whole bench on an embedded server of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import psycopg

from pyatm.bench import probes
from pyatm.bench.floor import Floor
from pyatm.bench.idle import ready_to_claimed
from pyatm.bench.lifecycle import Lifecycle
from pyatm.bench.measure import Sample, Subject, measured
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
        seconds: measured of each subject, with each number of submitters, in each round.
        rounds: of the workload, interleaved.
        idle_commands: of the wait for the claim.
        poll_tasks: running tasks of the report_poll probe.
        plan_tasks: tasks of the large plan.
        live_tasks: live tasks of the lookup probe, ascending.
        calls: of each single call.
    """

    seconds: float = 1.5
    rounds: int = 3
    idle_commands: int = 60
    poll_tasks: int = 5000
    plan_tasks: int = 1000
    live_tasks: tuple[int, ...] = (1000, 20_000)
    calls: int = 15


TINY: Final = Size(1.0, 1, 3, 100, 20, (20, 40), 3)
"""Only shows that everything runs; its figures mean nothing."""
WARM_UP: Final = 0.3
"""Seconds before each measurement."""


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
        answer.update(probe_calls(dsn, size, tell))
    return answer


def probe_calls(dsn: str, size: Size, tell: Callable[[str], None]) -> dict[str, Any]:
    """Single calls beside their floor.

    Args:
        dsn: a migrated database with the floor's tables.
        size: how much.
        tell: takes one line of progress.
    """
    sql = load()
    work = Lifecycle(dsn, "probes")
    tell("plan with many tasks")
    plan = probes.large_plan(dsn, work, sql, size.plan_tasks, size.calls)
    tell("report_poll")
    report = probes.report_poll(dsn, work, sql, size.poll_tasks, size.calls)
    tell("entity lookups")
    lookup = probes.lookup(dsn, work, sql, list(size.live_tasks), size.calls * 20)
    return {"plan_1000": plan, "report_poll": report, "lookup": lookup}


def _workload(
    server: EmbeddedServer, dsn: str, size: Size, tell: Callable[[str], None]
) -> dict[str, Any]:
    sql = load()
    ours = Lifecycle(dsn)
    subjects: dict[str, Subject] = {
        "floor": Floor(dsn, sql, minimal=False),
        "floor_min": Floor(dsn, sql, minimal=True),
        "pyatm": ours,
    }
    tell("idle: from ready to claimed")
    idle = ready_to_claimed(dsn, ours, size.idle_commands)
    answer: dict[str, Any] = {}
    for submitters in (1, 8):
        rounds: list[dict[str, Sample]] = []
        for number in range(size.rounds):
            tell(f"workload, {submitters} submitters, round {number + 1} of {size.rounds}")
            # In one breath, so that what else the machine does meets all three.
            rounds.append(
                {
                    name: measured(subject, dsn, server.pid or 0, submitters, size.seconds, WARM_UP)
                    for name, subject in subjects.items()
                }
            )
        answer[f"submitters_{submitters}"] = {**_compare(rounds), "ready_to_claimed_ms": idle}
    return answer


def _compare(rounds: list[dict[str, Sample]]) -> dict[str, Any]:
    """Medians over the rounds; a ratio is taken within its round."""
    ours = [one["pyatm"] for one in rounds]
    floor = [one["floor"] for one in rounds]
    least = [one["floor_min"] for one in rounds]

    def ratio(above: list[float], below: list[float]) -> float:
        pairs = zip(above, below, strict=True)
        return round(median(a / max(b, 1e-9) for a, b in pairs), 2)

    def rates(samples: list[Sample]) -> list[float]:
        return [sample.rate for sample in samples]

    def cpu(samples: list[Sample]) -> list[float]:
        return [sample.cpu for sample in samples]

    def per_command(counts: list[int], samples: list[Sample], digits: int) -> float:
        pairs = zip(counts, samples, strict=True)
        return round(median(count / max(one.commands, 1) for count, one in pairs), digits)

    # Every call is a transaction of its own and one round trip.
    trips = per_command([sample.round_trips for sample in ours], ours, 2)
    return {
        "ratio_to_floor": ratio(rates(ours), rates(floor)),
        "ratio_to_floor_min": ratio(rates(ours), rates(least)),
        "floor_min_to_floor": ratio(rates(least), rates(floor)),
        "commands_per_second": round(median(rates(ours)), 1),
        "floor_commands_per_second": round(median(rates(floor)), 1),
        "cpu_ratio": ratio(cpu(ours), cpu(floor)),
        "cpu_ms": round(median(cpu(ours)) * 1000, 2),
        "floor_cpu_ms": round(median(cpu(floor)) * 1000, 2),
        "transactions": trips,
        "round_trips": trips,
        "wal_bytes": per_command([sample.wal for sample in ours], ours, 0),
        "floor_wal_bytes": per_command([sample.wal for sample in floor], floor, 0),
    }
