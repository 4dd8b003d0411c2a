"""`pyatm operate`: the operator functions of schema atm, dry run first.

Each wants a reason, which atm.audit keeps with who, from where and what changed. Without --execute
nothing is changed and the answer says what would happen. With --json each prints one object:
"function", "target", "dry_run", and either "result" (a sentence) or "rows" with "more".
"""

from collections.abc import Callable
from typing import Annotated, Final, Literal, LiteralString
from uuid import UUID

import typer
from psycopg import Rollback, sql
from psycopg.rows import DictRow
from rich.console import Console, Group, RenderableType
from rich.text import Text

from pyatm.cli.errors import CommandError
from pyatm.cli.lookup_options import LimitOption
from pyatm.cli.lookups import UNBOUNDED_WIDTH, Answer, Reader, Section, as_object, clean, rendered
from pyatm.cli.options import ConfigOption, DataDirOption, DsnOption, JsonOption, settings_from
from pyatm.cli.output import print_json

operate = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Change something, with a reason; shows what would happen until told --execute.",
)

RESULT: Final = "result"


def _reason(text: str) -> str:
    if not text.strip():
        raise typer.BadParameter("say why; it is kept in atm.audit")
    return text


ReasonOption = Annotated[
    str,
    typer.Option("--reason", metavar="TEXT", callback=_reason, help="Why; kept in atm.audit."),
]
ExecuteOption = Annotated[
    bool, typer.Option("--execute", help="Do it; without this only show what would happen.")
]


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(operate, name="operate")


class _Operator:
    """A database that is changed, and how the change is shown."""

    def __init__(self, reader: Reader, execute: bool, as_json: bool) -> None:
        self.reader = reader
        self.execute = execute
        self._as_json = as_json

    def call(
        self, function: LiteralString, arguments: LiteralString, **parameters: object
    ) -> list[DictRow]:
        """The rows of one call; `arguments` names its parameters, dry_run is added."""
        query = sql.SQL("select * from atm.{}({}, dry_run => %(dry_run)s)").format(
            sql.SQL(function), sql.SQL(arguments)
        )
        return self.reader.rows(query, {**parameters, "dry_run": not self.execute})

    def show_text(self, function: str, target: str, rows: list[DictRow]) -> None:
        """Print a function's one value."""
        self._print(function, target, {RESULT: str(next(iter(rows[0].values())))}, None)

    def show_rows(
        self,
        function: str,
        target: str,
        rows: list[DictRow],
        columns: tuple[str, ...],
        empty: str,
        limit: int,
    ) -> None:
        """Print a function's rows, at most `limit`."""
        section = Section("rows", rows[:limit], columns, empty, more=len(rows) > limit)
        self._print(function, target, {}, section, len(rows) - limit)

    def _print(
        self,
        function: str,
        target: str,
        facts: dict[str, object],
        section: Section | None,
        left: int = 0,
    ) -> None:
        dry_run = not self.execute
        head: dict[str, object] = {"function": function, "target": target, "dry_run": dry_run}
        answer = Answer((section,) if section else (), head | facts)
        if self._as_json:
            found = as_object(answer)
            if section is None:
                del found["more"]
            print_json(found)
            return
        words = "nothing has changed; --execute does it" if dry_run else "done"
        parts: list[RenderableType] = [Text(clean(fact)) for fact in facts.values()]
        if section is not None:
            parts.append(rendered(Answer((section,))))
        if left > 0:
            parts.append(Text(f"({left} more rows)"))
        out = Console(highlight=False)
        if not out.is_terminal:
            out = Console(highlight=False, width=UNBOUNDED_WIDTH)
        out.print(Group(*parts, Text(f"{function} {clean(target)}: {words}")))


def _run(
    settings: tuple[object, object, object],
    execute: bool,
    as_json: bool,
    work: Callable[[_Operator], None],
) -> None:
    config, dsn, data_dir = settings
    chosen = settings_from(config, dsn, data_dir)  # pyright: ignore[reportArgumentType]
    reader = Reader(chosen, "pyatm operate", "atm_operator")
    try:
        work(_Operator(reader, execute, as_json))
    finally:
        reader.close()


@operate.command("cancel")
def cancel(
    command_id: Annotated[UUID, typer.Argument(metavar="COMMAND_ID", help="A live command.")],
    reason: ReasonOption,
    execute: ExecuteOption = False,
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    limit: LimitOption = 100,
    as_json: JsonOption = False,
) -> None:
    """Cancel a command: its tasks are stopped, its endAction runs with failure.

    A command whose endAction gave up ends without it and frees its entities.

    Example: pyatm operate cancel 0a8f3c52-93a4-4c0e-9a3c-1f7f0c1a2b3d --reason "wrong VM"
    """

    def work(operator: _Operator) -> None:
        rows = operator.call(
            "cancel_command", "%(id)s, reason => %(reason)s", id=command_id, reason=reason
        )
        columns = ("task_id", "state", "effect")
        empty = "it has no tasks"
        operator.show_rows("cancel_command", str(command_id), rows, columns, empty, limit)

    _run((config, dsn, data_dir), execute, as_json, work)


@operate.command("resolve-task")
def resolve_task(
    task_id: Annotated[UUID, typer.Argument(metavar="TASK_ID", help="Running or in doubt.")],
    outcome: Annotated[Literal["failed", "lost"], typer.Argument(help="What has become of it.")],
    reason: ReasonOption,
    execute: ExecuteOption = False,
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the wait for a task that VDSM will never report; its command fails.

    Example: pyatm operate resolve-task 5c0e... lost --reason "the host was reinstalled"
    """

    def work(operator: _Operator) -> None:
        rows = operator.call(
            "resolve_task",
            "%(id)s, %(outcome)s, reason => %(reason)s",
            id=task_id,
            outcome=outcome,
            reason=reason,
        )
        operator.show_text("resolve_task", str(task_id), rows)

    _run((config, dsn, data_dir), execute, as_json, work)


@operate.command("retry-end-action")
def retry_end_action(
    command_id: Annotated[
        UUID, typer.Argument(metavar="COMMAND_ID", help="Its endAction gave up, or waits.")
    ],
    reason: ReasonOption,
    execute: ExecuteOption = False,
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Offer the endAction of a command to its engine again, attempts counted from zero.

    Example: pyatm operate retry-end-action 0a8f3c52-93a4-4c0e-9a3c-1f7f0c1a2b3d --reason "space"
    """

    def work(operator: _Operator) -> None:
        rows = operator.call(
            "retry_end_action", "%(id)s, reason => %(reason)s", id=command_id, reason=reason
        )
        operator.show_text("retry_end_action", str(command_id), rows)

    _run((config, dsn, data_dir), execute, as_json, work)


@operate.command("resolve-orphan")
def resolve_orphan(
    vdsm_task_id: Annotated[UUID, typer.Argument(metavar="VDSM_TASK_ID", help="Of pyatm orphans.")],
    reason: ReasonOption,
    execute: ExecuteOption = False,
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that nobody waits for an orphan: tasks in doubt are settled without it.

    Example: pyatm operate resolve-orphan 3e1a0000-0000-4000-8000-000000000001 --reason "by hand"
    """

    def work(operator: _Operator) -> None:
        rows = operator.call(
            "resolve_orphan", "%(id)s, reason => %(reason)s", id=vdsm_task_id, reason=reason
        )
        operator.show_text("resolve_orphan", str(vdsm_task_id), rows)

    _run((config, dsn, data_dir), execute, as_json, work)


PoolArgument = Annotated[str, typer.Argument(metavar="POOL", help="Its name or id.")]


def _pool_id(reader: Reader, pool: str) -> UUID:
    query = "select * from atm.pools where %(pool)s in (pool_name, storage_pool_id::text)"
    found = reader.rows(query, {"pool": pool})
    if len(found) != 1:
        ids = ", ".join(str(row["storage_pool_id"]) for row in found)
        raise CommandError(
            f"storage pools named {pool!r}: {ids}"
            if found
            else f"there is no storage pool {pool!r}",
            fix="give the id" if found else "see atm.pools, or pyatm top",
        )
    return found[0]["storage_pool_id"]


@operate.command("drain")
def drain(
    pool: PoolArgument,
    reason: ReasonOption,
    end: Annotated[bool, typer.Option("--end", help="Accept new tasks again.")] = False,
    execute: ExecuteOption = False,
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse new tasks in a storage pool while the live ones go on to their end.

    Example: pyatm operate drain Default --reason "storage is replaced tonight" --execute
    """

    def work(operator: _Operator) -> None:
        pool_id = _pool_id(operator.reader, pool)
        rows = operator.call(
            "drain_pool",
            "%(id)s, reason => %(reason)s, drained => %(drained)s",
            id=pool_id,
            reason=reason,
            drained=not end,
        )
        operator.show_text("drain_pool", str(pool_id), rows)

    _run((config, dsn, data_dir), execute, as_json, work)


@operate.command("remove-pool")
def remove_pool(
    pool: PoolArgument,
    reason: ReasonOption,
    execute: ExecuteOption = False,
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget a storage pool that has neither live tasks nor orphans.

    Example: pyatm operate remove-pool Default --reason "the data centre is gone"
    """

    def work(operator: _Operator) -> None:
        pool_id = _pool_id(operator.reader, pool)
        rows = operator.call(
            "remove_pool", "%(id)s, reason => %(reason)s", id=pool_id, reason=reason
        )
        operator.show_text("remove_pool", str(pool_id), rows)

    _run((config, dsn, data_dir), execute, as_json, work)


@operate.command("set")
def set_setting(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of pyatm settings.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="Such as 5, 30s, off.")],
    reason: ReasonOption,
    execute: ExecuteOption = False,
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a setting of the database (the daemons' own are in the configuration file).

    Example: pyatm operate set absence_time 45s --reason "slow storage after a failover" --execute
    """
    query = "select atm.set_setting(%(name)s, %(value)s, %(reason)s) as value"
    parameters: dict[str, object] = {"name": name, "value": value, "reason": reason}

    def work(operator: _Operator) -> None:
        rows: list[DictRow] = []
        old = operator.reader.rows("select * from atm.settings where name = %(name)s", parameters)
        # The function has no dry run: it is called and rolled back, so a wrong value is told too.
        with operator.reader.transaction():
            rows = operator.reader.rows(query, parameters)
            if not execute:
                raise Rollback
        before, after = old[0]["value"] if old else "", rows[0]["value"]
        words = [{"result": f"{'is' if execute else 'would be'} {after}, was {before}"}]
        operator.show_text("set_setting", name, words)

    _run((config, dsn, data_dir), execute, as_json, work)


@operate.command("purge-history")
def purge_history(
    reason: ReasonOption,
    keep_months: Annotated[
        int | None,
        typer.Option(min=0, max=1200, help="Full months to keep; left out: history_months."),
    ] = None,
    execute: ExecuteOption = False,
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    limit: LimitOption = 1000,
    as_json: JsonOption = False,
) -> None:
    """Drop the months of history that are older than a number of months.

    Example: pyatm operate purge-history --keep-months 24 --reason "retention of two years"
    """

    def work(operator: _Operator) -> None:
        rows = operator.call(
            "purge_history",
            "reason => %(reason)s, keep_months => %(months)s",
            reason=reason,
            months=keep_months,
        )
        columns = ("partition_name", "month", "commands", "dropped")
        empty = "no month is old enough"
        operator.show_rows("purge_history", "history", rows, columns, empty, limit)

    _run((config, dsn, data_dir), execute, as_json, work)
