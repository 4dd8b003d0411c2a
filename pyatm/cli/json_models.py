"""What `--json` prints, as types: the one source of docs/json.md and of `pyatm schema`.

The rows of a view have the view's columns as keys. A key that is here stays; new keys may come with
a new version, so a reader should ignore those it does not know.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, Field

Seconds = Annotated[float, Field(description="number of seconds")]
Document = dict[str, Any]
CommandState = Literal["open", "sealed", "ready", "ending", "reverting", "ended", "end_failed"]
Outcome = Literal["succeeded", "failed"]
TaskState = Literal["planned", "submitting", "in_doubt", "running", "done"]
TaskOutcome = Literal["succeeded", "failed", "not_submitted", "in_doubt", "lost"]
Access = Literal["shared", "exclusive"]


class Printed(BaseModel):
    """An object that the program prints."""


class CommandRow(Printed):
    """A row of atm.commands; state, outcome and open_tasks are those of the root."""

    command_id: UUID
    parent_command_id: UUID | None
    root_command_id: UUID
    action_type: str
    state: CommandState
    outcome: Outcome | None
    engine_name: str
    epoch: int
    created_at: datetime
    open_tasks: int
    age: Seconds
    attempt: int
    aborted: bool
    due_at: datetime | None
    ready_at: datetime | None
    ended_at: datetime | None


class TaskRow(Printed):
    """A row of atm.tasks; vdsm_* is what VDSM said last."""

    task_id: UUID
    command_id: UUID
    root_command_id: UUID
    task_type: str
    storage_pool_id: UUID
    vdsm_task_id: UUID | None
    state: TaskState
    outcome: TaskOutcome | None
    vdsm_state: str | None
    vdsm_result: str | None
    vdsm_code: int | None
    vdsm_message: str | None
    created_at: datetime
    bound_at: datetime | None
    done_at: datetime | None
    announced_at: datetime | None
    cleared_at: datetime | None
    pool_name: str
    action_type: str
    task_no: int


class OrphanRow(Printed):
    """A row of atm.orphans."""

    vdsm_task_id: UUID
    pool_name: str
    vdsm_state: str
    vdsm_result: str
    age: Seconds
    meaning: str
    suspects: list[UUID] | None
    storage_pool_id: UUID
    vdsm_code: int
    vdsm_message: str
    first_seen_at: datetime
    absent_polls: int


class StuckRow(Printed):
    """A row of atm.stuck: what waits, for whom, and what resolves it."""

    action_type: str
    waits_for: str
    age: Seconds | None
    turn: Literal["engine", "poller", "operator"]
    remedy: str
    root_command_id: UUID
    task_id: UUID | None
    since: datetime | None
    not_before: datetime | None


class HistoryTask(Printed):
    """A task of a command that is over."""

    task_id: UUID
    task_type: str
    outcome: TaskOutcome
    vdsm_task_id: UUID | None
    vdsm_state: str | None
    vdsm_result: str | None
    vdsm_code: int | None
    vdsm_message: str | None
    announced_at: datetime | None
    bound_at: datetime | None
    done_at: datetime | None
    cleared_at: datetime | None


class HistoryRow(Printed):
    """A row of atm.history; notes are the uncommon events, plan is the document as it was given."""

    command_id: UUID
    action_type: str
    outcome: Outcome
    engine_name: str
    planned_at: datetime
    ended_at: datetime
    took: Seconds
    attempts: int
    aborted: bool
    tasks: list[HistoryTask] | None
    notes: list[Document]
    plan: Document | None
    epoch: int
    ready_at: datetime | None
    claimed_at: datetime | None
    archived_at: datetime


class HolderRow(Printed):
    """A row of atm.blockers: a command that holds the entity."""

    entity_type: str
    entity_id: UUID
    root_command_id: UUID
    action_type: str
    access: Access
    since: datetime


class EntityTaskRow(Printed):
    """A row of atm.entity_tasks; without a task_id it is a holder that has no task."""

    task_id: UUID | None
    command_id: UUID
    root_command_id: UUID
    state: TaskState | CommandState
    access: Access
    since: datetime


class StoryRow(Printed):
    """A row of atm.explain; without a time it is what is missing now and what comes next."""

    at: datetime | None
    what: str
    who: str | None
    detail: str | None


class Finding(Printed):
    """A row of atm.check."""

    severity: Literal["critical", "warning"]
    finding: str
    remedy: str


class SettingRow(Printed):
    """A row of atm.settings."""

    name: str
    value: str
    default_value: str
    type: str
    meaning: str


class AuditRow(Printed):
    """A row of atm.audit; client is the address of who did it."""

    at: datetime
    who: str
    function: str
    target: str
    reason: str
    client: str | None
    application: str | None
    detail: Document


class Cut(Printed):
    """More says that --limit has cut rows."""

    more: bool


class Commands(Cut):
    """`pyatm commands --json`."""

    commands: list[CommandRow]


class Tasks(Cut):
    """`pyatm tasks --json`."""

    tasks: list[TaskRow]


class Entity(Cut):
    """`pyatm entity --json`."""

    entity_type: str
    entity_id: UUID
    can_compensate: bool
    held_by: list[HolderRow]
    tasks: list[EntityTaskRow]


class Orphans(Cut):
    """`pyatm orphans --json`."""

    orphans: list[OrphanRow]


class Stuck(Cut):
    """`pyatm stuck --json`."""

    stuck: list[StuckRow]


class History(Cut):
    """`pyatm history --json`."""

    history: list[HistoryRow]


class Explain(Cut):
    """`pyatm explain --json`."""

    explain: list[StoryRow]


class Check(Cut):
    """`pyatm check --json`."""

    check: list[Finding]


class Settings(Cut):
    """`pyatm settings --json`."""

    settings: list[SettingRow]


class Audit(Cut):
    """`pyatm audit --json`."""

    audit: list[AuditRow]


class Operation(Printed):
    """`pyatm operate ... --json`; dry_run: nothing was changed."""

    function: str
    target: str
    dry_run: bool
    result: str


class CancelledTask(Printed):
    """A task of a command that is cancelled."""

    task_id: UUID
    state: TaskState
    effect: str


class Cancel(Cut):
    """`pyatm operate cancel --json`."""

    function: Literal["cancel_command"]
    target: str
    dry_run: bool
    rows: list[CancelledTask]


class PurgedMonth(Printed):
    """A month of history or of plans; commands is the number of its rows."""

    partition_name: str
    month: str
    commands: int
    dropped: bool


class Purge(Cut):
    """`pyatm operate purge-history --json`."""

    function: Literal["purge_history"]
    target: str
    dry_run: bool
    rows: list[PurgedMonth]


class Migrated(Printed):
    """`pyatm db migrate --json`: names of what was done; loaded: functions and views."""

    applied: list[str]
    loaded: bool
    dropped: list[str]


class Status(Printed):
    """`pyatm db status --json`."""

    server_version: str
    applied: list[str]
    pending: list[str]
    unknown: list[str]
    edited: list[str]
    files_loaded: bool
    up_to_date: bool
    dsn: str


class PollerFinding(Printed):
    """An element of what `pyatm poller --check --json` prints, which is a list."""

    subject: str
    ok: bool
    text: str
    fix: str | None


class Flow(Printed):
    """`pyatm flow --json`; live_rows and vdsm_tasks count what it left behind."""

    flow: str
    outcome: Outcome
    tasks: int
    live_rows: int
    vdsm_tasks: int


class Scenario(Printed):
    """One scenario of the demo."""

    name: str
    outcome: str
    tasks: int
    seconds: Seconds


class Demo(Printed):
    """`pyatm demo --json`; live_rows and vdsm_tasks count what the scenarios left behind."""

    scenarios: list[Scenario]
    live_rows: int
    vdsm_tasks: int


class PollerReady(Printed):
    """The line that `pyatm poller --json` prints when it is ready."""

    event: Literal["ready"]
    name: str
    pid: int
    metrics_port: int | None = None


class SimulatorReady(Printed):
    """The line that `pyatm vdsm-sim --json` prints when it is ready."""

    event: Literal["ready"]
    host: str
    port: int
    control_port: int | None
    pid: int
    host_id: int
    storage: str
    tls: bool
    pools: Document


class Bench(Printed):
    """`pyatm bench --json`: figures by subject; their names are those of the table."""

    workload: dict[str, Document]
    report_poll: Document
    plan_1000: Document
    lookup: dict[str, Document]


SCHEMAS: Final[dict[str, tuple[type[Printed], ...]]] = {
    "demo": (Demo,),
    "db migrate": (Migrated,),
    "db status": (Status,),
    "poller": (PollerReady, PollerFinding),
    "vdsm-sim": (SimulatorReady,),
    "flow": (Flow,),
    "commands": (Commands,),
    "tasks": (Tasks,),
    "entity": (Entity,),
    "orphans": (Orphans,),
    "stuck": (Stuck,),
    "history": (History,),
    "explain": (Explain,),
    "check": (Check,),
    "settings": (Settings,),
    "audit": (Audit,),
    "operate cancel": (Cancel,),
    "operate resolve-task": (Operation,),
    "operate retry-end-action": (Operation,),
    "operate resolve-orphan": (Operation,),
    "operate drain": (Operation,),
    "operate remove-pool": (Operation,),
    "operate set": (Operation,),
    "operate purge-history": (Purge,),
    "bench": (Bench,),
}
"""The types of what each command prints with --json; a poller prints one or a list of the other."""
