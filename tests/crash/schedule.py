"""What goes wrong and when, made from a seed alone: the same seed gives the same faults."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.crash.points import DEEDS, POINTS, RARE, STARTING, Deed

ENGINES: Final = ("engine-1", "engine-2")
POLLERS: Final = ("poller-1", "poller-2")
HOSTS: Final = ("host-1", "host-2", "host-3")
"""The first two share a storage directory and the first pool; the third has the second pool."""

LEAST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 5.0
"""Seconds; longer than the leases (3 s) of pools and endActions, shorter than the settle time."""
RARE_AT_ONCE: Final = 5
"""Points that are reached rarely are waited for together."""
STILLBORN: Final = 0.2
"""How many lives have a point within `start_engine`."""
LATEST: Final = 1.5
"""Seconds that the simulators execute or answer a request late at most."""

WEIGHTS: Final = {
    "kill engine": 8,
    "kill poller": 5,
    "kill simulator": 6,
    "kill postmaster": 2,
    "kill backend": 2,
    "terminate backend": 6,
    "stop database": 2,
    "pause engine": 3,
    "pause poller": 3,
    "pause simulator": 3,
    "fail over": 6,
    "damage task": 2,
    "lose answer": 6,
    "drop before": 3,
    "drop after": 4,
    "born late": 6,
    "delay": 3,
    "delay answer": 3,
    "half open": 2,
    "refuse": 4,
    "fail work": 4,
    "kill at request": 5,
    "lose chore": 4,
    "slow listing": 2,
    "full queue": 2,
    "drop connections": 3,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        after: seconds after the previous one.
        kind: a key of `WEIGHTS`.
        target: an engine, poller or host, empty for the database.
        seconds: how long, for the kinds that last.
        details: what else its kind needs.
    """

    after: float
    kind: str
    target: str = ""
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict[str, Any])


def faults(seed: int, interval: float) -> Iterator[Fault]:
    """The faults of a run, without an end.

    Args:
        seed: decides everything.
        interval: seconds between two faults on average.
    """
    chance = random.Random(f"faults {seed}")
    kinds, weights = list(WEIGHTS), list(WEIGHTS.values())
    while True:
        kind = chance.choices(kinds, weights)[0]
        yield Fault(
            after=min(chance.expovariate(1 / interval), 4 * interval),
            kind=kind,
            target=_target(kind, chance),
            seconds=_seconds(kind, chance),
            details=_details(kind, chance),
        )


def _target(kind: str, chance: random.Random) -> str:
    who = kind.rpartition(" ")[2]
    known = {"engine": ENGINES, "poller": POLLERS}
    if "postmaster" in kind or "backend" in kind or "database" in kind:
        return ""
    return chance.choice(known.get(who, HOSTS))


def _seconds(kind: str, chance: random.Random) -> float:
    if kind.startswith("pause"):
        return chance.uniform(LEAST_PAUSE, LONGEST_PAUSE)
    if kind.startswith("kill") or kind == "stop database":
        return chance.uniform(0.1, 1.5)  # until it is started again
    return chance.uniform(0.1, LATEST)


def _details(kind: str, chance: random.Random) -> dict[str, Any]:
    match kind:
        case "kill at request":
            methods = ("create", "Task.clear", "Task.revert", "Host.getAllTasksStatuses")
            actions = ("kill_before", "kill_after")
            return {"method": chance.choice(methods), "action": chance.choice(actions)}
        case "lose chore":
            methods = ("Task.clear", "Task.stop", "Task.revert")
            actions = ("lose_answer", "drop_after", "drop_before")
            return {"method": chance.choice(methods), "action": chance.choice(actions)}
        case "refuse" | "lose answer" | "fail work":
            return {"count": chance.randint(1, 3)}
        case "fail over":
            return {"hide_seconds": chance.choice((0.0, 0.0, 0.3, 1.0))}
        case _:
            return {}


@dataclass(frozen=True, slots=True)
class Life:
    """At which points an engine is to die or to be stopped, whichever comes first.

    Attributes:
        orders: for `Points`.
        seconds: how long it stays stopped.
        twin: a newer incarnation is started meanwhile.
    """

    orders: tuple[str, ...] = ()
    seconds: float = LEAST_PAUSE
    twin: bool = False


def lives(seed: int) -> Iterator[Life]:
    """The lives of the engines: every point with every deed, then all again, in a seeded order."""
    chance = random.Random(f"points {seed}")
    usual = _shuffled([point for point in POINTS if point not in RARE | STARTING], chance)
    rare, starting = _shuffled(sorted(RARE), chance), _shuffled(sorted(STARTING), chance)
    while True:
        point, deed = next(usual)
        orders = {point: f"{point}:{chance.randint(1, 60)}:{deed}"}
        for _ in range(RARE_AT_ONCE):
            point, deed = next(rare)
            orders[point] = f"{point}:1:{deed}"
        if chance.random() < STILLBORN:
            point, deed = next(starting)
            orders[point] = f"{point}:1:{deed}"
        seconds = chance.uniform(LEAST_PAUSE, LONGEST_PAUSE)
        yield Life(tuple(orders.values()), seconds, chance.random() < 0.5)


def _shuffled(points: Sequence[str], chance: random.Random) -> Iterator[tuple[str, Deed]]:
    pairs: list[tuple[str, Deed]] = [(point, deed) for point in points for deed in DEEDS]
    while True:
        chance.shuffle(pairs)
        yield from pairs
