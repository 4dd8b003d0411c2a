"""What goes into and comes out of the functions of schema `atm`, as frozen dataclasses."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, cast
from uuid import UUID, uuid4

T = TypeVar("T")
Access = Literal["shared", "exclusive"]
Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entity:
    """An entity that a command or task works on.

    Attributes:
        type: oVirt's name, such as `VM`, `Disk`, `Storage`; an engine may add its own.
        access: `exclusive` admits no other command that has the entity.
    """

    type: str
    id: UUID
    access: Access = "shared"

    def document(self) -> dict[str, Any]:
        """The entity as the plan has it."""
        return {"type": self.type, "id": str(self.id), "access": self.access}


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A placeholder for one VDSM task.

    Attributes:
        parameters: whatever the engine wants to find again in `EndAction.tasks`.
        submit: announce it in the planning transaction itself (usually the first task only).
    """

    task_type: str
    storage_pool_id: UUID
    parameters: Parameters = field(default_factory=dict[str, Any])
    entities: tuple[Entity, ...] = ()
    submit: bool = False
    task_id: UUID = field(default_factory=uuid4)

    def document(self) -> dict[str, Any]:
        """The task as the plan has it."""
        return {
            "task_id": str(self.task_id),
            "task_type": self.task_type,
            "storage_pool_id": str(self.storage_pool_id),
            "parameters": dict(self.parameters),
            "entities": [entity.document() for entity in self.entities],
            "submit": self.submit,
        }


@dataclass(frozen=True, slots=True)
class CommandPlan:
    """A command with its tasks and child commands; the root of the tree is what is planned.

    Attributes:
        seal: no tasks will be added later; only the root's counts.
    """

    action_type: str
    parameters: Parameters = field(default_factory=dict[str, Any])
    entities: tuple[Entity, ...] = ()
    tasks: tuple[TaskPlan, ...] = ()
    children: tuple["CommandPlan", ...] = ()
    seal: bool = True
    command_id: UUID = field(default_factory=uuid4)

    def document(self) -> dict[str, Any]:
        """The argument `plan` of `atm.plan_command`."""
        return {**self._document(), "seal": self.seal}

    def _document(self) -> dict[str, Any]:
        return {
            "command_id": str(self.command_id),
            "action_type": self.action_type,
            "parameters": dict(self.parameters),
            "entities": [entity.document() for entity in self.entities],
            "tasks": [task.document() for task in self.tasks],
            "children": [child._document() for child in self.children],
        }

    def addition(self) -> dict[str, Any]:
        """The argument `plan` of `atm.add_tasks`: tasks and children only."""
        document = self._document()
        return {"tasks": document["tasks"], "children": document["children"]}

    def all_tasks(self) -> Iterator[TaskPlan]:
        """Every task of the tree in plan order."""
        yield from self.tasks
        for child in self.children:
            yield from child.all_tasks()

    def all_entities(self) -> Iterator[Entity]:
        """Every entity of the tree, some perhaps more than once."""
        yield from self.entities
        for task in self.tasks:
            yield from task.entities
        for child in self.children:
            yield from child.all_entities()


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A row of `plan_command` and `add_tasks`, in plan order."""

    task_id: UUID
    command_id: UUID
    root_command_id: UUID
    task_type: str
    storage_pool_id: UUID
    state: str


@dataclass(frozen=True, slots=True)
class TaskState:
    """A task and its state; only one that is `submitting` may be sent to VDSM."""

    task_id: UUID
    state: str


@dataclass(frozen=True, slots=True)
class Announcement(Generic[T]):
    """What a transaction that announced tasks returned, and whether VDSM may be called after it.

    Attributes:
        since: `time.monotonic()` before the transaction's first attempt; `submit_window` counts
            from here.
        only_local: the COMMIT warned that its synchronous standbys did not confirm it, so that
            after a failover the announcement may never have been.
    """

    value: T
    since: float
    only_local: bool = False


@dataclass(frozen=True, slots=True)
class EndedTask:
    """A task of a command whose endAction is due; the `vdsm_` fields are what VDSM said."""

    task_id: UUID
    command_id: UUID
    action_type: str
    task_type: str
    storage_pool_id: UUID
    state: str
    outcome: str | None
    vdsm_task_id: UUID | None
    vdsm_state: str | None
    vdsm_result: str | None
    vdsm_code: int | None
    vdsm_message: str | None
    parameters: Parameters

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> "EndedTask":
        """From one element of the column `tasks` of `claim_end_actions`."""
        vdsm_task_id = entry.get("vdsm_task_id")
        return cls(
            task_id=UUID(entry["task_id"]),
            command_id=UUID(entry["command_id"]),
            action_type=entry["action_type"],
            task_type=entry["task_type"],
            storage_pool_id=UUID(entry["storage_pool_id"]),
            state=entry["state"],
            outcome=entry["outcome"],
            vdsm_task_id=UUID(vdsm_task_id) if vdsm_task_id else None,
            vdsm_state=entry.get("vdsm_state"),
            vdsm_result=entry.get("vdsm_result"),
            vdsm_code=entry.get("vdsm_code"),
            vdsm_message=entry.get("vdsm_message"),
            parameters=cast("Parameters", entry.get("parameters") or {}),
        )


@dataclass(frozen=True, slots=True)
class EndAction:
    """A claimed endAction.

    Attributes:
        outcome: `succeeded` if and only if every task was executed with success.
        attempt: 1 for the first claim.
        token: needed for extending and finishing; good until the command is claimed again.
        parameters: of the root command, as planned.
    """

    root_command_id: UUID
    action_type: str
    outcome: str
    attempt: int
    token: int
    lease_until: datetime
    parameters: Parameters
    tasks: tuple[EndedTask, ...]

    @property
    def succeeded(self) -> bool:
        """Every task was executed with success and nobody aborted the command."""
        return self.outcome == "succeeded"


@dataclass(frozen=True, slots=True)
class EntityTask:
    """A row of `entity_tasks`; a holder without tasks has `task_id` None."""

    task_id: UUID | None
    command_id: UUID
    root_command_id: UUID
    state: str | None
    access: str
    since: datetime
