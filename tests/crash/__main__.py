"""`python -m tests.crash --minutes 10 --seed 1`: kills everything at any instant, and judges.

Exit code 0: every invariant held; 1: one did not, and the data is left for inspection. What is
printed says which settings are shorter than in production, and what the run came to.
"""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import structlog

from tests.crash.points import POINTS
from tests.crash.run import Result, run
from tests.crash.schedule import LATEST, LONGEST_PAUSE, WEIGHTS
from tests.crash.world import LEASE, SETTINGS

KILLS = {kind for kind in WEIGHTS if kind.startswith("kill")} | {"stop database", "fail over"}
"""Faults that end a process at once."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="with faults")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--interval", type=float, default=1.5, help="seconds between two faults")
    parser.add_argument("--keep", action="store_true", help="leave the data in any case")
    return parser.parse_args()


def main() -> int:
    """One run; returns the exit code."""
    options = _arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    directory = Path(tempfile.mkdtemp(prefix="pyatm-chaos-"))
    # The database's account must be able to enter.
    directory.chmod(0o755)
    again = f"make chaos MINUTES={options.minutes:g} SEED={options.seed}"
    print(f"chaos: {again}, data in {directory}", flush=True)
    _say_settings()
    begun = time.monotonic()
    work = run(directory, options.seed, options.minutes * 60, interval=options.interval)
    result = asyncio.run(work)
    _report(result, time.monotonic() - begun)
    if not result.violations:
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
        print("chaos: every invariant held")
        return 0
    for violation in result.violations[:40]:
        print(violation)
    print(f"chaos: {len(result.violations)} violations; the data is in {directory}")
    print(f"chaos: to repeat it: {again}")
    return 1


def _say_settings() -> None:
    shorter = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
    print(f"  settings other than in production: {shorter}; leases {LEASE:g} s")
    print(
        f"  bounds that they rely on: VDSM is late by {LATEST:g} s at most, processes are stopped"
        f" for {LONGEST_PAUSE:g} s at most"
    )


def _report(result: Result, seconds: float) -> None:
    evidence = result.evidence
    outcomes = Counter(ended.outcome for ended in evidence.ended.values())
    tasks = Counter(task.outcome for ended in evidence.ended.values() for task in ended.tasks)
    names = {point.rpartition(" ")[0] for point in result.points}
    vdsm = sum(event.event == "created" for event in evidence.executed)
    print(f"  {len(evidence.planned)} commands planned, {_words(outcomes)}")
    print(f"  tasks: {_words(tasks)}; VDSM created {vdsm}")
    print(f"  refused because an entity was held: {len(evidence.refusals)}")
    print(f"  faults: {sum(result.faults.values())}: {_words(result.faults)}")
    killed = Counter({k: n for k, n in result.faults.items() if k in KILLS})
    deaths = sum(n for point, n in result.points.items() if point.endswith(" die"))
    print(
        f"  killed: {sum(killed.values()) + deaths}, of these engines at points {deaths}"
        " (a failover kills the SPM; stop database is pg_ctl stop -m immediate)"
    )
    print(
        f"  engine at points: {sum(result.points.values())} deaths and stops,"
        f" {len(names)} of {len(POINTS)} points, {len(result.points)} of {2 * len(POINTS)}"
        " with both deeds counted"
    )
    print(f"  processes started: {_words(result.starts)}")
    print(f"  ended by themselves: {_words(result.ended)}")
    print(f"  why: {_words(result.unexpected)}")
    stale = Counter(f"{attempt.operation} {attempt.answer}" for attempt in evidence.stale)
    print(f"  stale writes tried: {_words(stale)}")
    print(
        f"  compensation allowed {len(evidence.compensable)} times when asked,"
        f" {sum(bool(effect.compensated) for effect in evidence.effects)} times at the end"
    )
    print(f"  an operator decided: {_words(result.operator)}")
    print(
        f"  after the faults: {result.settled.seconds:.1f} s and {result.settled.polls} polls"
        f" of each pool until nothing was left; {seconds:.0f} s altogether"
    )


def _words(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered) or "none"


if __name__ == "__main__":
    sys.exit(main())
