"""Long walks through the moves of the machine, by a seeded dice.

hypothesis makes short examples of failures, but chooses its moves evenly; a walk prefers those
that bring commands forward, and so comes deeper.
"""

from __future__ import annotations

import inspect
import random
from typing import TYPE_CHECKING, Any

from .database import LEVELS, Way
from .machine import EVENTS, Machine, NothingError
from .moves import ENGINES, ENTITIES, POLLERS, POOLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .database import Database

FAULTS = [""] * 8 + ["no answer"] * 2 + ["refused", "failed", "garbled"]
WEIGHTS = {
    "plan": 4, "plan_again": 1, "add_tasks": 2, "on_command": 3, "submit": 6, "engine_works": 14,
    "bind_and_announce": 3, "jobs_end": 6, "spm_lost": 1, "time_passes": 2, "seldom": 2, "poll": 8,
    "begin_poll": 4, "list_tasks": 5, "report": 5, "do_chores": 5, "report_actions": 5,
    "end_actions": 6, "claim": 1, "finish": 2, "extend": 1, "resolve_task": 2, "resolve_orphan": 1,
}  # fmt: skip


class Walk:
    """One walk: the same seed makes the same moves."""

    def __init__(self, database: Database, seed: int) -> None:
        self.dice = random.Random(seed)
        self.trace: list[str] = []
        self.machine = Machine()
        self.machine.database = database

    def run(self, steps: int) -> None:
        dice, machine = self.dice, self.machine
        machine.begin(
            polls=dice.choice([1, 1, 2]),
            settle=dice.random() < 0.3,
            absence=dice.random() < 0.5,
            attempts=dice.randint(1, 3),
            orphans=dice.choice(["suspected", "suspected", "all"]),
            luck=dice.randrange(2**16),
            restart=dice.random() < 0.5,
            planned=[],
        )
        names, weights = list(WEIGHTS), list(WEIGHTS.values())
        for name in dice.choices(names, weights, k=steps):
            self.move(name)
            machine.holds()
        machine.teardown()

    def move(self, name: str) -> None:
        method: Callable[..., None] = getattr(self.machine, name)
        asked = inspect.signature(method).parameters
        given = {parameter: self.draw(parameter) for parameter in asked}
        self.trace.append(f"{name}({', '.join(f'{k}={v!r}' for k, v in given.items())})")
        try:
            method(**given)
        except NothingError:
            self.trace.pop()

    def draw(self, parameter: str) -> Any:
        dice = self.dice
        choices: dict[str, Callable[[], Any]] = {
            "engine": lambda: dice.choice(ENGINES),
            "poller": lambda: dice.choice(POLLERS),
            "pool": lambda: dice.choice(POOLS),
            "age": lambda: dice.choice([0] * 12 + [1, 2]),
            "way": lambda: Way(dice.choice(LEVELS), dice.random() > 0.1),
            "shape": lambda: self.shape(),
            "entities": lambda: self.entities(),
            "what": lambda: dice.choice(["seal", "seal", "seal", "abort", "cancel", "retry"]),
            "event": lambda: dice.choice(EVENTS),
            "result": lambda: dice.choice(["done"] * 8 + ["retry", "postpone", "give_up"]),
            "disposition": lambda: dice.choice(["clear", "clear", "revert"]),
            "outcome": lambda: dice.choice(["failed", "lost"]),
            "success": lambda: dice.random() < 0.85,
            "seal": lambda: dice.random() < 0.8,
            "fault": lambda: dice.choice(
                [""] * 8 + ["no answer"] * 2 + ["refused", "failed", "garbled"]
            ),
            "steps": lambda: dice.randint(1, 3),
            "how_many": lambda: dice.randint(1, 3),
            "most": lambda: dice.randint(0, 2),
            "n": lambda: dice.randrange(8),
            "m": lambda: dice.randrange(8),
        }
        return choices.get(parameter, lambda: dice.random() < 0.5)()

    def shape(self) -> list[Any]:
        dice = self.dice
        return [
            (dice.choice([None, 0, 1]), dice.choice(POOLS), dice.random() < 0.4, self.entities())
            for _ in range(dice.choice([0, 1, 1, 2, 2, 3]))
        ]

    def entities(self) -> list[Any]:
        dice = self.dice
        chosen = dice.sample(ENTITIES, dice.choice([0, 0, 1, 1, 2]))
        return [(entity, dice.choice(["shared", "shared", "exclusive"])) for entity in chosen]
