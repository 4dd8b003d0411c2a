"""Two commands want the same entity exclusively, in two transactions at once.

The rule is a constraint: the second insert waits for the first transaction and then fails.
Flaws: `query` (look for a holder, then insert) and `lock_then_query` (take a lock first; right
under READ COMMITTED, wrong above it because the snapshot is older than the lock).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .search import Step
from .small import REPEATABLE_READ, Small

if TYPE_CHECKING:
    from collections.abc import Iterator


class Plan(NamedTuple):
    """One plan_command."""

    at: str = "idle"  # begun, locked, free (the query found nothing), inserted, planned, refused
    snapshot: int = 0  # committed holders when it began


class Two(NamedTuple):
    """Both plans and the holders."""

    who: tuple[Plan, Plan] = (Plan(), Plan())
    holders: int = 0  # committed
    lock: int = -1


@dataclass(frozen=True, slots=True)
class Admission(Small):
    """One entity, two roots."""

    @property
    def name(self) -> str:
        """For the table."""
        return f"admission, {self.isolation}"

    def first(self) -> Two:
        """Both are about to begin."""
        return Two()

    def at_rest(self, state: Two) -> bool:
        """Both have an answer."""
        return all(one.at in ("planned", "refused") for one in state.who)

    def violations(self, state: Two) -> Iterator[str]:
        """One holder, and somebody gets in."""
        if state.holders > 1:
            yield "4: two roots hold the entity exclusively"
        if self.at_rest(state) and not state.holders:
            yield "4: both were refused although the entity was free"

    def put(self, state: Two, i: int, at: str, **changes: object) -> Two:
        """One plan moves on."""
        one = state.who[i]._replace(at=at, **changes)
        return state._replace(who=(one, state.who[1]) if i == 0 else (state.who[0], one))

    def steps(self, state: Two) -> Iterator[Step]:
        """The next statement of either."""
        for i in (0, 1):
            one, other = state.who[i], state.who[1 - i]
            visible = one.snapshot if self.isolation == REPEATABLE_READ else state.holders
            if one.at == "idle":
                after = self.put(state, i, "begun", snapshot=state.holders)
                yield Step(f"begin x{i}", True, after)
            elif one.at == "begun" and "lock_then_query" in self.flaws:
                if state.lock < 0:
                    yield Step(f"lock x{i}", True, self.put(state, i, "locked")._replace(lock=i))
            elif one.at == "locked" or (one.at == "begun" and "query" in self.flaws):
                if visible:
                    freed = state._replace(lock=-1) if state.lock == i else state
                    yield Step(f"refused x{i}", True, self.put(freed, i, "refused"))
                else:
                    yield Step(f"nobody_seen x{i}", True, self.put(state, i, "free"))
            elif one.at == "free":
                yield Step(f"insert x{i}", True, self.put(state, i, "inserted"))
            elif one.at == "begun":
                # The constraint looks at everything, committed or not, whatever the snapshot.
                if state.holders:
                    yield Step(f"refused x{i}", True, self.put(state, i, "refused"))
                elif other.at != "inserted":
                    yield Step(f"insert x{i}", True, self.put(state, i, "inserted"))
            elif one.at == "inserted":
                after = self.put(state, i, "planned")._replace(holders=state.holders + 1)
                after = after._replace(lock=-1) if after.lock == i else after
                yield Step(f"commit x{i}", True, after)
