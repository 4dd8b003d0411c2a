"""`pyatm commands, tasks, entity, orphans, stuck, history, ...`: look, change nothing.

They read the views and functions of schema atm and need no more than the role atm_reader. With
--json each prints one object: the rows under the command's name with the view's columns as keys,
and "more", true when --limit cut them. Times are ISO 8601, intervals seconds.
"""

from typing import Annotated
from uuid import UUID

import typer
from psycopg.types.json import Jsonb

from pyatm.cli.errors import EXIT_FAILURE
from pyatm.cli.filters import (
    CommandOutcome,
    CommandState,
    Filter,
    TaskState,
    Where,
)
from pyatm.cli.lookup_options import (
    ActionOption,
    EntityOption,
    LimitOption,
    NewerOption,
    OlderOption,
    PoolOption,
    WatchOption,
)
from pyatm.cli.lookups import Answer, Reader, Section, show
from pyatm.cli.options import ConfigOption, DataDirOption, DsnOption, JsonOption, settings_from


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    for command in (
        commands,
        tasks,
        entity,
        orphans,
        stuck,
        history,
        explain,
        check,
        settings,
        audit,
    ):
        app.command()(command)


def commands(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    action: ActionOption = None,
    state: Annotated[
        CommandState | None, typer.Option("--state", help="Only this state of the root.")
    ] = None,
    pool: PoolOption = None,
    entity: EntityOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    roots: Annotated[bool, typer.Option("--roots", help="Without child commands.")] = False,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show the live commands, oldest first (view atm.commands).

    Example: pyatm commands --roots --action RemoveVm --older-than 15min
    """
    wanted = Filter(action, state.value if state else None, pool, entity, older_than, newer_than)
    where = wanted.commands(roots=roots)
    columns = ("command_id", "action_type", "state", "outcome", "open_tasks", "age", "engine_name")

    def ask(reader: Reader) -> Answer:
        order = "created_at, root_command_id, parent_command_id nulls first, command_id"
        empty = "no live command matches"
        return Answer((reader.view("commands", where, order, limit, columns, empty),))

    show(settings_from(config, dsn, data_dir), ask, as_json=as_json, watch=watch)


def tasks(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    action: ActionOption = None,
    state: Annotated[TaskState | None, typer.Option("--state", help="Only this state.")] = None,
    pool: PoolOption = None,
    entity: EntityOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    command: Annotated[
        UUID | None, typer.Option("--command", metavar="UUID", help="Only of this command.")
    ] = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show the live tasks, oldest first, and what VDSM last said of them (view atm.tasks).

    Example: pyatm tasks --pool Default --state in_doubt --json
    """
    where = Where()
    where.add("action_type = %(action)s", action=action)
    where.add("state = %(state)s", state=state.value if state else None)
    where.add("%(pool)s in (pool_name, storage_pool_id::text)", pool=pool)
    where.add("%(command)s in (command_id, root_command_id)", command=command)
    where.add("created_at < now() - %(older)s::interval", older=older_than)
    where.add("created_at > now() - %(newer)s::interval", newer=newer_than)
    where.add(
        "task_id in (select task_id from atm.entity_tasks(%(entity_type)s, %(entity_id)s))",
        **Filter(entity=entity).entity_parameters(),
    )
    columns = ("task_id", "task_type", "state", "outcome", "vdsm_task_id", "vdsm_state",
               "pool_name", "vdsm_message")  # fmt: skip

    def ask(reader: Reader) -> Answer:
        order = "created_at, root_command_id, task_no"
        empty = "no live task matches"
        return Answer((reader.view("tasks", where, order, limit, columns, empty),))

    show(settings_from(config, dsn, data_dir), ask, as_json=as_json, watch=watch)


def entity(
    entity_type: Annotated[str, typer.Argument(metavar="TYPE", help="VM, Disk, Storage, ...")],
    entity_id: Annotated[UUID, typer.Argument(metavar="ID", help="Its uuid.")],
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show what holds an entity, what runs on it, and whether compensation may start.

    Example: pyatm entity Disk 9a1f4c1e-6d5f-4d6e-8e55-3f4b8f4b6c2d
    """
    one: dict[str, object] = {"entity_type": entity_type, "entity_id": entity_id}
    wanted = {"type": entity_type, "id": str(entity_id), "access": "exclusive"}
    holders: dict[str, object] = {"entities": Jsonb([wanted])}

    def ask(reader: Reader) -> Answer:
        held = reader.rows("select * from atm.blockers(%(entities)s)", holders)
        rows = reader.rows("select * from atm.entity_tasks(%(entity_type)s, %(entity_id)s)", one)
        query = "select atm.can_compensate(%(entity_type)s, %(entity_id)s) as may"
        may = bool(reader.rows(query, one)[0]["may"])
        hold = ("root_command_id", "action_type", "access", "since")
        work = ("task_id", "command_id", "state")
        name = f"{entity_type} {entity_id}"
        words = "may" if may else "may not: VDSM can still be at work on it"
        return Answer(
            (
                Section("held_by", held, hold, "no command holds it"),
                Section("tasks", rows, work, "no task runs on it"),
            ),
            {"entity_type": entity_type, "entity_id": str(entity_id), "can_compensate": may},
            (f"{name}; compensation {words} start" if may else f"{name}; compensation {words}",),
        )

    show(settings_from(config, dsn, data_dir), ask, as_json=as_json, watch=watch)


def orphans(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    pool: PoolOption = None,
    older_than: OlderOption = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show VDSM's tasks that no task here is bound to (view atm.orphans).

    Example: pyatm orphans --older-than 1h
    """
    where = Where()
    where.add("%(pool)s in (pool_name, storage_pool_id::text)", pool=pool)
    where.add("first_seen_at < now() - %(older)s::interval", older=older_than)
    columns = ("vdsm_task_id", "pool_name", "vdsm_state", "vdsm_result", "age", "meaning")

    def ask(reader: Reader) -> Answer:
        order = "first_seen_at, vdsm_task_id"
        empty = "no VDSM task is unknown here"
        return Answer((reader.view("orphans", where, order, limit, columns, empty),))

    show(settings_from(config, dsn, data_dir), ask, as_json=as_json, watch=watch)


def stuck(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    action: ActionOption = None,
    older_than: OlderOption = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show what waits for somebody: for what, whose turn it is, the remedy (view atm.stuck).

    Example: pyatm stuck --older-than 10min
    """
    where = Filter(action=action, older_than=older_than).stuck()
    columns = ("root_command_id", "action_type", "age", "turn", "waits_for", "remedy")

    def ask(reader: Reader) -> Answer:
        order = "since, root_command_id, task_id"
        empty = "nothing is stuck"
        return Answer((reader.view("stuck", where, order, limit, columns, empty),))

    show(settings_from(config, dsn, data_dir), ask, as_json=as_json, watch=watch)


def history(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    action: ActionOption = None,
    outcome: Annotated[
        CommandOutcome | None, typer.Option("--outcome", help="Only this outcome.")
    ] = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show the commands that are over, last ended first (view atm.history).

    Example: pyatm history --outcome failed --newer-than 12h
    """
    where = Where()
    where.add("action_type = %(action)s", action=action)
    where.add("outcome = %(outcome)s", outcome=outcome.value if outcome else None)
    where.add("ended_at < now() - %(older)s::interval", older=older_than)
    where.add("ended_at > now() - %(newer)s::interval", newer=newer_than)
    columns = (
        "command_id",
        "action_type",
        "outcome",
        "ended_at",
        "took",
        "attempts",
        "engine_name",
    )

    def ask(reader: Reader) -> Answer:
        order = "ended_at desc, command_id"
        empty = "no command of the history matches"
        return Answer((reader.view("history", where, order, limit, columns, empty),))

    show(settings_from(config, dsn, data_dir), ask, as_json=as_json, watch=watch)


def explain(
    command_id: Annotated[
        UUID, typer.Argument(metavar="COMMAND_ID", help="A live command, or a root that is over.")
    ],
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Tell the story of a command: what happened, by whom, what is missing, what comes next.

    Example: pyatm explain 0a8f3c52-93a4-4c0e-9a3c-1f7f0c1a2b3d
    """
    columns = ("at", "what", "who", "detail")

    def ask(reader: Reader) -> Answer:
        rows = reader.rows("select * from atm.explain(%(id)s)", {"id": command_id})
        return Answer((Section("explain", rows, columns, "nothing is known"),))

    show(settings_from(config, dsn, data_dir), ask, as_json=as_json, watch=watch)


def check(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show what somebody should look at. Exit code 1: at least one finding is critical.

    Example: pyatm check --json
    """
    columns = ("severity", "finding", "remedy")

    def ask(reader: Reader) -> Answer:
        rows = reader.rows("select * from atm.check() order by severity, finding")
        return Answer((Section("check", rows, columns, "all is well"),))

    found = show(settings_from(config, dsn, data_dir), ask, as_json=as_json, watch=watch)
    if any(row["severity"] == "critical" for row in found.sections[0].rows):
        raise typer.Exit(EXIT_FAILURE)


def settings(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the settings of the database (view atm.settings); pyatm operate set changes one.

    Example: pyatm settings --json
    """
    columns = ("name", "value", "default_value", "meaning")

    def ask(reader: Reader) -> Answer:
        return Answer((reader.view("settings", Where(), "name", 1000, columns, "none"),))

    show(settings_from(config, dsn, data_dir), ask, as_json=as_json, watch=None)


def audit(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="TEXT", help="Only of this command, task, setting, ..."),
    ] = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    watch: WatchOption = None,
) -> None:
    """Show who changed what and why, the latest first (view atm.audit).

    Example: pyatm audit --newer-than 7d
    """
    where = Where()
    where.add("target = %(target)s", target=target)
    where.add("at < now() - %(older)s::interval", older=older_than)
    where.add("at > now() - %(newer)s::interval", newer=newer_than)
    columns = ("at", "who", "function", "target", "reason")

    def ask(reader: Reader) -> Answer:
        empty = "nobody has changed anything"
        return Answer((reader.view("audit", where, "at desc", limit, columns, empty),))

    show(settings_from(config, dsn, data_dir), ask, as_json=as_json, watch=watch)
