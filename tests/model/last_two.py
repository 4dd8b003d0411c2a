"""The last two tasks of a root are finished by two transactions at once.

Statement by statement: row locks, snapshots and serialization failures as PostgreSQL has them.
The rule: lock the root, then the task, and count down on the root's row. Flaws: `count_rows`
(no counter, the transaction counts the finished rows that it sees) and `task_before_root` (one of
the two takes its locks in the opposite order).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .search import Step
from .small import REPEATABLE_READ, Small

if TYPE_CHECKING:
    from collections.abc import Iterator


class Transaction(NamedTuple):
    """One of the two."""

    at: str = "idle"  # begun, locked (its first lock), both, changed, done
    seen_root: int = 0  # version of the root's row in its snapshot
    seen_done: int = 0  # finished rows in its snapshot


class Pair(NamedTuple):
    """The root's row, the finished tasks, and the two transactions."""

    who: tuple[Transaction, Transaction] = (Transaction(), Transaction())
    left: int = 2  # the counter on the root's row
    version: int = 0  # of the root's row
    done: int = 0  # finished tasks, committed
    ready: int = 0  # how often the root became ready
    root_lock: int = -1
    task_lock: int = -1  # a task row that both touch (a finish, and a cancel of the root)


@dataclass(frozen=True, slots=True)
class LastTwo(Small):
    """One root, two tasks, two transactions."""

    @property
    def name(self) -> str:
        """For the table."""
        return f"last two tasks, {self.isolation}"

    def first(self) -> Pair:
        """Both are about to begin."""
        return Pair()

    def at_rest(self, state: Pair) -> bool:
        """Both are over, and endAction was offered once."""
        return all(one.at == "done" for one in state.who) and state.ready == 1

    def violations(self, state: Pair) -> Iterator[str]:
        """Offered at most once, and not lost."""
        if state.ready > 1:
            yield "2: the root became ready twice"
        if all(one.at == "done" for one in state.who) and not state.ready:
            yield "2: all tasks are done and nobody saw the root become ready"

    def steps(self, state: Pair) -> Iterator[Step]:
        """The next statement of either."""
        for i in (0, 1):
            yield from (
                self.counting_rows(state, i)
                if "count_rows" in self.flaws
                else (self.counting_down(state, i))
            )

    def put(self, state: Pair, i: int, **changes: object) -> Pair:
        """One transaction moves on."""
        one = state.who[i]._replace(**changes)
        return state._replace(who=(one, state.who[1]) if i == 0 else (state.who[0], one))

    def counting_rows(self, state: Pair, i: int) -> Iterator[Step]:
        """Finish the task, then count what is visible."""
        one = state.who[i]
        if one.at == "idle":
            yield Step(f"begin x{i}", True, self.put(state, i, at="begun", seen_done=state.done))
        elif one.at == "begun":
            yield Step(f"finish_task x{i}", True, self.put(state, i, at="changed"))
        elif one.at == "changed":
            visible = one.seen_done if self.isolation == REPEATABLE_READ else state.done
            after = self.put(state, i, at="counted", seen_done=visible + 1)
            yield Step(f"count x{i}", True, after)
        elif one.at == "counted":
            after = self.put(state, i, at="done")
            ready = state.ready + (one.seen_done == 2)
            yield Step(f"commit x{i}", True, after._replace(done=state.done + 1, ready=ready))

    def counting_down(self, state: Pair, i: int) -> Iterator[Step]:
        """Lock the root and the task, count down, commit."""
        one = state.who[i]
        root_first = not ("task_before_root" in self.flaws and i == 0)
        first, second = ("root_lock", "task_lock") if root_first else ("task_lock", "root_lock")
        if one.at == "idle":
            yield Step(f"begin x{i}", True, self.put(state, i, at="begun", seen_root=state.version))
        elif one.at in ("begun", "locked"):
            lock = first if one.at == "begun" else second
            if getattr(state, lock) >= 0:
                return  # waits
            stale = one.seen_root != state.version and self.isolation == REPEATABLE_READ
            if lock == "root_lock" and stale:
                free = {name: -1 for name in (first, second) if getattr(state, name) == i}
                after = self.put(state, i, at="idle", seen_root=0)._replace(**free)
                yield Step(f"40001_retry x{i}", True, after)
                return
            after = self.put(state, i, at="locked" if one.at == "begun" else "both")
            yield Step(f"{lock} x{i}", True, after._replace(**{lock: i}))
        elif one.at == "both":
            after = self.put(state, i, at="changed")._replace(left=state.left - 1)
            yield Step(f"count_down x{i}", True, after)
        elif one.at == "changed":
            after = self.put(state, i, at="done", seen_root=0)
            yield Step(
                f"commit x{i}",
                True,
                after._replace(
                    root_lock=-1,
                    task_lock=-1,
                    version=state.version + 1,
                    done=state.done + 1,
                    ready=state.ready + (state.left == 0),
                ),
            )
