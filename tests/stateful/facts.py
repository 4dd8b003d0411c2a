"""What the oracle knows: roots with their tasks and holds, unknowns, pools."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Entity = tuple[str, str]
Said = tuple[str, str, int, str]
Row = dict[str, Any]

UNSENT = "planned"
ANNOUNCED = ("submitting", "in_doubt")


class RefusedError(Exception):
    """The call raises this SQLSTATE and changes nothing."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class Watch:
    """Polls counted for a task that is waited for."""

    since: int
    lver: int | None = None
    polls: int = 0


@dataclass(slots=True, eq=False)
class Task:
    """One placeholder."""

    id: str
    root: Root
    command: str
    pool: str
    epoch: int | None
    state: str = UNSENT
    outcome: str | None = None
    vdsm: str | None = None
    bound: int = 0
    said: Said | None = None
    message: str | None = None
    cleared: int | None = None
    doubt: Watch | None = None
    absence: Watch | None = None
    to_revert: bool = False
    stopping: bool = False

    @property
    def may_bind(self) -> bool:
        return self.epoch is not None and self.state in ANNOUNCED

    @property
    def may_be_unknown(self) -> bool:
        """Whether an unknown VDSM task may be the answer that this task never got."""
        unproven = self.outcome == "in_doubt" or self.doubt is not None
        return self.state in ANNOUNCED or (self.state == "done" and self.vdsm is None and unproven)

    @property
    def finished(self) -> bool:
        return self.said is not None and self.said[0] == "finished"


@dataclass(slots=True)
class Hold:
    """What names an entity in a root."""

    exclusive: bool = False
    commands: set[str] = field(default_factory=set)
    tasks: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class Root:
    """A root command with its tree."""

    id: str
    engine: str
    document: Row
    state: str
    parents: dict[str, str | None] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    holds: dict[Entity, Hold] = field(default_factory=dict)
    additions: list[tuple[str, Row]] = field(default_factory=list)
    outcome: str | None = None
    aborted: bool = False
    stop: bool = False
    attempt: int = 0
    token: int | None = None
    due: bool = False
    released: bool = False

    @property
    def live(self) -> bool:
        """Whether it holds its entities."""
        return self.state != "ended"

    @property
    def open_tasks(self) -> int:
        return sum(task.state != "done" for task in self.tasks)

    def lineage(self, command: str | None) -> set[str]:
        found: set[str] = set()
        while command is not None:
            found.add(command)
            command = self.parents[command]
        return found

    def touching(self, entity: Entity) -> list[Task]:
        hold = self.holds.get(entity)
        if hold is None:
            return []
        return [
            task
            for task in self.tasks
            if task.id in hold.tasks or hold.commands & self.lineage(task.command)
        ]


@dataclass(slots=True, eq=False)
class Unknown:
    """A VDSM task that is bound to none."""

    id: str
    pool: str
    said: Said
    suspects: list[Task]
    suspected: bool = False
    absence: Watch | None = None
    resolved: bool = False

    def live_suspects(self) -> list[Task]:
        return [task for task in self.suspects if task.may_be_unknown]


@dataclass(slots=True)
class Pool:
    """Who polls, and the last listing that was applied."""

    poller: str | None = None
    token: int | None = None
    short_lease: bool = False
    reported: int = 0
    polled: int = 0
    lver: int | None = None
    drained: bool = False


@dataclass(slots=True)
class Settings:
    """The settings that the rules read; a time is either over or far away."""

    absence_polls: int = 1
    absence_over: bool = True
    settle_over: bool = True
    attempts: int = 3
    orphans: str = "suspected"
