"""Faults on demand: rules that match requests, plans for the work of tasks, and switches."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from pyatm.simulator.plans import JobPlan, Rollback
from pyatm.simulator.spm import LoadOptions
from pyatm.simulator.values import Arguments, BadArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

CREATES: Final = frozenset({"Image.delete", "Volume.create", "Volume.copy"})
STORAGE_PREFIXES: Final = (
    "Task.",
    "Volume.",
    "Image.",
    "StoragePool.",
    "StorageDomain.",
    "Host.getAllTasks",
)


R = TypeVar("R")


class Action(StrEnum):
    """What happens to a request that a rule matches.

    ``delay``: it is executed ``seconds`` later. ``delay_answer``: executed at once, answered
    later. ``lose_answer``: executed, never answered. ``drop_before``: the connection is closed,
    nothing executed. ``drop_after``: executed, then closed in place of the answer. ``born_late``:
    the connection is closed at once, it is executed ``seconds`` later. ``half_open``: executed,
    and the connection neither reads nor writes any more. ``refuse``: error ``code``, ``message``.
    ``kill_before``, ``kill_after``: VDSM is killed before executing, or before answering.
    """

    DELAY = "delay"
    DELAY_ANSWER = "delay_answer"
    LOSE_ANSWER = "lose_answer"
    DROP_BEFORE = "drop_before"
    DROP_AFTER = "drop_after"
    BORN_LATE = "born_late"
    HALF_OPEN = "half_open"
    REFUSE = "refuse"
    KILL_BEFORE = "kill_before"
    KILL_AFTER = "kill_after"


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests are meant; every given field must fit.

    Attributes:
        method: a JSON-RPC method, ``create`` (every verb that makes a task) or ``*``.
        params: parameters that the request must have with these values.
        request_id: its JSON-RPC id.
        correlation_id: its ``ovirtCorrelationId``.
    """

    method: str = "*"
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    request_id: str | None = None
    correlation_id: str | None = None

    def fits(
        self,
        method: str,
        params: Mapping[str, Any],
        request_id: object = None,
        correlation_id: str | None = None,
    ) -> bool:
        if self.method not in ("*", method) and not (self.method == "create" and method in CREATES):
            return False
        if self.request_id is not None and self.request_id != request_id:
            return False
        if self.correlation_id is not None and self.correlation_id != correlation_id:
            return False
        return all(params.get(name) == value for name, value in self.params.items())

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        return cls(
            arguments.optional_text("method") or "*",
            arguments.mapping("params"),
            arguments.optional_text("request_id"),
            arguments.optional_text("correlation_id"),
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault for requests.

    Attributes:
        action: what happens.
        match: to which requests.
        skip: how many matching requests pass unharmed first.
        count: how many are hit then, None: all.
        seconds: for the actions that take time.
        code: for ``refuse``.
        message: for ``refuse``.
    """

    action: Action
    match: Match = Match()
    skip: int = 0
    count: int | None = 1
    seconds: float = 0.0
    code: int = 100
    message: str = "refused on demand"

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        action = arguments.text("action")
        if action not in [str(known) for known in Action]:
            known = ", ".join(Action)
            raise BadArgumentError(f"field action must be one of {known}, not {action!r}")
        every = arguments.flag("every")
        return cls(
            action=Action(action),
            match=Match.read(arguments),
            skip=arguments.integer("skip", 0),
            count=None if every else arguments.integer("count", 1),
            seconds=arguments.seconds("seconds", 0.0),
            code=arguments.integer("code", 100),
            message=arguments.optional_text("message") or "refused on demand",
        )


@dataclass(frozen=True, slots=True)
class JobRule:
    """A plan for the work of tasks whose create request matches."""

    plan: JobPlan
    match: Match = Match()
    count: int | None = None


@dataclass(slots=True)
class _Counted(Generic[R]):
    rule: R
    number: int
    seen: int = 0
    used: int = 0


class Faults:
    """Everything that was asked for; outlives a restart of the simulated VDSM.

    Args:
        plan: the course of work that no rule says anything about.
    """

    def __init__(self, plan: JobPlan) -> None:
        self.default_plan = plan
        self.slow_seconds = 0.0
        self.slow_methods: tuple[str, ...] = ()
        self.deafness = True
        """Whether a poison request makes the dispatcher deaf, as it does in VDSM."""
        self.starting_until = 0.0
        """Moment of the event loop's clock until which every verb answers code 99."""
        self.load = LoadOptions()
        self._rules: list[_Counted[Rule]] = []
        self._jobs: list[_Counted[JobRule]] = []
        self._number = 0

    def add(self, rule: Rule) -> int:
        """Add a rule; returns its number."""
        self._number += 1
        self._rules.append(_Counted(rule, self._number))
        return self._number

    def add_job(self, rule: JobRule) -> int:
        """Add a plan; the newest matching one counts. Returns its number."""
        self._number += 1
        self._jobs.insert(0, _Counted(rule, self._number))
        return self._number

    def remove(self, number: int | None) -> None:
        """Remove one rule or plan by its number, or all of them."""
        self._rules = [entry for entry in self._rules if number not in (None, entry.number)]
        self._jobs = [entry for entry in self._jobs if number not in (None, entry.number)]

    def used(self, number: int) -> int:
        """How many requests a rule or plan has hit."""
        entries = [*self._rules, *self._jobs]
        return sum(entry.used for entry in entries if entry.number == number)

    def take(
        self,
        method: str,
        params: Mapping[str, Any],
        request_id: object,
        correlation_id: str | None,
    ) -> list[Rule]:
        """The rules that hit this request; each counts it."""
        hits: list[Rule] = []
        for entry in self._rules:
            rule = entry.rule
            if not rule.match.fits(method, params, request_id, correlation_id):
                continue
            entry.seen += 1
            if entry.seen > rule.skip and (rule.count is None or entry.used < rule.count):
                entry.used += 1
                hits.append(rule)
        return hits

    def plan(
        self, method: str, params: Mapping[str, Any], correlation_id: str | None = None
    ) -> JobPlan:
        """The course of the work of the task that this request makes."""
        for entry in self._jobs:
            rule = entry.rule
            if rule.match.fits(method, params, None, correlation_id) and (
                rule.count is None or entry.used < rule.count
            ):
                entry.used += 1
                return rule.plan
        return self.default_plan

    def slowness(self, method: str) -> float:
        """Seconds that a verb needs more than usual."""
        if self.slow_methods:
            return self.slow_seconds if method in self.slow_methods else 0.0
        return self.slow_seconds if method.startswith(STORAGE_PREFIXES) else 0.0

    def set_load(self, arguments: Arguments) -> None:
        """Set what goes wrong at the next start of the SPM role."""
        self.load = LoadOptions(
            hide_seconds=arguments.seconds("hide_seconds", 0.0),
            hide_polls=arguments.integer("hide_polls", 0),
            dropped=frozenset(arguments.texts("dropped")),
            rollback=Rollback(
                arguments.seconds("rollback_seconds", 0.0), arguments.flag("rollback_fails")
            ),
        )
