"""What a run leaves to be judged: plain facts, made by whoever watched, judged by `checker`.

Times are seconds since the epoch. All processes run on one machine, so that the database's clock
and theirs are the same clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pyatm.simulator.execution_log import ExecutionEvent

Access = Literal["shared", "exclusive"]
EntityKey = tuple[str, str]
"""Type and id of an entity."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task as its command was planned.

    Attributes:
        task_id: ours; the simulator's log has it as the correlation id of the create.
        entities: its own, its command's and its ancestors'.
    """

    task_id: str
    entities: frozenset[EntityKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Planned:
    """A root command whose planning transaction has committed.

    Attributes:
        epoch: of the engine that planned it.
        held_from: read inside the planning transaction, after `plan_command` had returned.
        holds: the strongest access per entity.
    """

    root: str
    engine: str
    epoch: int
    held_from: float
    tasks: tuple[PlannedTask, ...] = ()
    holds: Mapping[EntityKey, Access] = field(default_factory=dict[EntityKey, Access])


@dataclass(frozen=True, slots=True)
class EndedTask:
    """A task in `atm.history`; times are None where the database has none."""

    task_id: str
    outcome: str
    vdsm_task_id: str | None = None
    bound_at: float | None = None
    cleared_at: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A root command in `atm.history`.

    Attributes:
        by_operator: it ended without endAction because an operator said so.
    """

    root: str
    outcome: str
    aborted: bool
    archived_at: float
    tasks: tuple[EndedTask, ...] = ()
    by_operator: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """A row that an endAction wrote in the transaction that finished it.

    Attributes:
        token: of the claim.
        at: the database's clock inside that transaction, before `finish_end_action`.
        compensated: entities for which `can_compensate` had said yes, just before.
    """

    root: str
    token: int
    outcome: str
    at: float
    compensated: frozenset[EntityKey] = frozenset()


@dataclass(frozen=True, slots=True)
class Start:
    """An incarnation of an engine; `at`: when `start_engine` had returned."""

    engine: str
    epoch: int
    at: float


@dataclass(frozen=True, slots=True)
class Write:
    """A write that the database acknowledged.

    Attributes:
        operation: the function's name.
        epoch: of the incarnation that made it.
        began: before the call.
    """

    operation: str
    engine: str
    epoch: int
    began: float


@dataclass(frozen=True, slots=True)
class StaleAttempt:
    """A write with a stale epoch, lease or token, made on purpose.

    Attributes:
        answer: the SQLSTATE, or `done` when it was not refused.
    """

    operation: str
    answer: str


@dataclass(frozen=True, slots=True)
class Claim:
    """An endAction as it was offered.

    Attributes:
        epoch: of the incarnation that it was offered to, 0: not known.
    """

    root: str
    token: int
    outcome: str
    task_outcomes: tuple[str | None, ...]
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A plan that was refused because of holders.

    Attributes:
        began: before the call.
        wanted: what the plan wanted.
        holders: the roots that the refusal named.
    """

    began: float
    wanted: Mapping[EntityKey, Access]
    holders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compensable:
    """`can_compensate` has said yes.

    Attributes:
        began: before the call.
        at: after it.
    """

    entity: EntityKey
    began: float
    at: float


@dataclass(frozen=True, slots=True)
class Left:
    """What is there when nothing should be any more.

    Attributes:
        live: rows of the live views and `atm.orphans`, in words.
        at_vdsm: tasks that some simulator has in memory or on disk.
        live_roots: roots that are still in `atm.commands`.
        named: those of them that `atm.stuck` names with the action needed.
    """

    live: tuple[str, ...] = ()
    at_vdsm: tuple[str, ...] = ()
    live_roots: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything about one run.

    Attributes:
        sent: when each task was certainly announced, and its create perhaps sent.
        freed: when each root was known to have ended with its finishing transaction. One that was
            reverting then holds its entities for longer.
        executed: the simulators' own log, all storage directories together, by time.
    """

    planned: Mapping[str, Planned] = field(default_factory=dict[str, Planned])
    ended: Mapping[str, Ended] = field(default_factory=dict[str, Ended])
    effects: Sequence[Effect] = ()
    starts: Sequence[Start] = ()
    writes: Sequence[Write] = ()
    stale: Sequence[StaleAttempt] = ()
    claims: Sequence[Claim] = ()
    refusals: Sequence[Refusal] = ()
    compensable: Sequence[Compensable] = ()
    sent: Mapping[str, float] = field(default_factory=dict[str, float])
    freed: Mapping[str, float] = field(default_factory=dict[str, float])
    executed: Sequence[ExecutionEvent] = ()
    left: Left = Left()
