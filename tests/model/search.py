"""The search: breadth first with traces, bounded progress by graph analysis, random walks.

A model gives its first state, its steps, and three kinds of judgement: `violations` of a state,
`regressions` of a step, and `at_rest` for states in which everything has come to its end. A step
is *fair* when it must happen sooner or later once faults have stopped; the others are faults,
operators' acts and new work.
"""

from __future__ import annotations

import random
import sys
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator


class Step(NamedTuple):
    """One thing that can happen."""

    label: str  # the action's name, then what it concerns
    fair: bool
    state: Any


class Model(Protocol):
    """What the search needs to know."""

    @property
    def name(self) -> str: ...

    def first(self) -> Hashable: ...

    def steps(self, state: Any) -> Iterator[Step]: ...

    def pack(self, state: Any, symmetry: bool) -> Hashable: ...

    def unpack(self, packed: Any) -> Any: ...

    def violations(self, state: Any) -> Iterable[str]: ...

    def regressions(self, before: Any, after: Any) -> Iterable[str]: ...

    def at_rest(self, state: Any) -> bool: ...


@dataclass(slots=True)
class Verdict:
    """What one search found."""

    model: str
    states: int
    depth: int
    seconds: float
    complaint: str = ""  # the invariant that failed
    trace: tuple[str, ...] = ()
    complete: bool = True
    fired: Counter[str] = field(default_factory=Counter)

    @property
    def holds(self) -> bool:
        """Nothing was found."""
        return not self.complaint

    @property
    def verdict(self) -> str:
        """One word or the complaint."""
        if self.complaint:
            return self.complaint
        return "holds" if self.complete else "holds as far as searched"


def explore(
    model: Model,
    *,
    symmetry: bool = True,
    progress: bool = True,
    limit: int = 5_000_000,
    seconds: float = 3600.0,
) -> Verdict:
    """Visit every reachable state, breadth first; stop at the first complaint.

    A safety complaint therefore comes with a shortest trace. With `progress` the complete graph
    is then searched for a place from which fair steps never lead to rest.
    """
    started = time.monotonic()
    first = model.pack(model.first(), symmetry)
    numbers: dict[Hashable, int] = {first: 0}
    states: list[Any] = [first]
    parents = array("q", [-1])
    labels: list[str] = [""]
    levels = array("H", [0])
    fair = Edges()
    fired: Counter[str] = Counter()
    complete = True
    index = 0

    def found(complaint: str, trace: tuple[str, ...]) -> Verdict:
        spent = time.monotonic() - started
        return Verdict(model.name, len(states), levels[-1], spent, complaint, trace, False, fired)

    def path(number: int) -> tuple[str, ...]:
        way: list[str] = []
        while number:
            way.append(labels[number])
            number = parents[number]
        return tuple(reversed(way))

    while index < len(states):
        state = model.unpack(states[index])
        for label, is_fair, after in model.steps(state):
            fired[label.split(" ", 1)[0]] += 1
            for complaint in model.regressions(state, after):
                return found(complaint, (*path(index), label))
            packed = model.pack(after, symmetry)
            number = numbers.get(packed)
            if number is None:
                number = numbers[packed] = len(states)
                states.append(packed)
                parents.append(index)
                labels.append(sys.intern(label))
                levels.append(levels[index] + 1)
                for complaint in model.violations(after):
                    return found(complaint, path(number))
            if is_fair and number != index:
                fair.add(index, number)
        index += 1
        if len(states) > limit or (index % 256 == 0 and time.monotonic() - started > seconds):
            complete = False
            break
    if complete and progress:
        stuck = never_at_rest(model, states, fair)
        if stuck is not None:
            return found("7: fair steps never lead to rest", path(stuck))
    spent = time.monotonic() - started
    return Verdict(model.name, len(states), levels[-1], spent, complete=complete, fired=fired)


class Edges:
    """Fair steps, kept backwards: linked lists in flat arrays, 16 bytes a step."""

    def __init__(self) -> None:
        self.last: dict[int, int] = {}
        self.source = array("q")
        self.before = array("q")

    def add(self, source: int, target: int) -> None:
        """Remember one step."""
        self.before.append(self.last.get(target, -1))
        self.last[target] = len(self.source)
        self.source.append(source)

    def into(self, target: int) -> Iterator[int]:
        """Where fair steps to this state come from."""
        edge = self.last.get(target, -1)
        while edge >= 0:
            yield self.source[edge]
            edge = self.before[edge]


def never_at_rest(model: Model, states: list[Any], fair: Edges) -> int | None:
    """A state (found earliest) from which no fair run reaches rest, or None.

    In a finite graph a run that is fair to every step ends in a terminal component. Every
    terminal component contains a state at rest if and only if rest can be reached from every
    state; so one backward search from the states at rest is enough.
    """
    good = bytearray(len(states))
    todo = [number for number, state in enumerate(states) if model.at_rest(model.unpack(state))]
    for number in todo:
        good[number] = 1
    while todo:
        for number in fair.into(todo.pop()):
            if not good[number]:
                good[number] = 1
                todo.append(number)
    stuck = good.find(0)
    return None if stuck < 0 else stuck


def wander(
    model: Model, *, seed: int, seconds: float, steps: int = 400, walks: int | None = None
) -> Verdict:
    """Random walks, each ended by fair steps alone, which must lead to rest."""
    started = time.monotonic()
    chance = random.Random(seed)
    fired: Counter[str] = Counter()
    visited = 0
    deepest = 0
    walk = 0
    while time.monotonic() - started < seconds and (walks is None or walk < walks):
        walk += 1
        state: Any = model.first()
        labels: list[str] = []
        calm = False
        for turn in range(20 * steps):
            calm = calm or turn >= steps
            if calm and model.at_rest(state):
                break
            choices = [step for step in model.steps(state) if step.fair or not calm]
            if not choices:
                break
            step = chance.choice(choices)
            fired[step.label.split(" ", 1)[0]] += 1
            labels.append(step.label)
            visited += 1
            complaints = [*model.regressions(state, step.state), *model.violations(step.state)]
            state = step.state
            if complaints:
                spent = time.monotonic() - started
                return Verdict(
                    model.name, visited, turn, spent, complaints[0], tuple(labels), False, fired
                )
        deepest = max(deepest, len(labels))
        if not model.at_rest(state):
            spent = time.monotonic() - started
            complaint = "fair steps did not lead to rest"
            return Verdict(
                model.name, visited, deepest, spent, complaint, tuple(labels), False, fired
            )
    spent = time.monotonic() - started
    return Verdict(model.name, visited, deepest, spent, complete=False, fired=fired)
