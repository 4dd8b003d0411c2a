"""What the lookup commands share: reading views, tables for people, JSON for programs, watching."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg
from psycopg import errors, sql
from psycopg.rows import DictRow, dict_row
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pyatm.cli.errors import CommandError
from pyatm.cli.filters import Where
from pyatm.cli.output import print_json
from pyatm.config import Settings
from pyatm.database.dsn import open_database
from pyatm.database.session import connect

UNBOUNDED_WIDTH: Final = 4000
"""Columns of a table that is not for a terminal: nothing is wrapped or cut for programs."""

STYLES: Final = {
    "critical": "bold red",
    "end_failed": "bold red",
    "failed": "red",
    "lost": "red",
    "in_doubt": "yellow",
    "warning": "yellow",
    "operator": "yellow",
    "running": "cyan",
    "succeeded": "green",
}


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under a name.

    Attributes:
        name: its key in the JSON object.
        rows: as the view gave them, all columns.
        columns: those that people see, in this order.
        empty: what people see when there is no row.
        more: there are more rows than the limit.
    """

    name: str
    rows: Sequence[DictRow]
    columns: tuple[str, ...]
    empty: str
    more: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command shows.

    Attributes:
        sections: tables, in order.
        facts: further keys of the JSON object.
        heading: shown to people above the tables.
    """

    sections: tuple[Section, ...]
    facts: dict[str, object] = field(default_factory=dict[str, object])
    heading: tuple[str, ...] = ()


NOT_HERE: Final = (
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.InvalidSchemaName,
    errors.InsufficientPrivilege,
)
"""Raised when the database is not pyatm's, or by a role that may not do this."""


def not_here(error: psycopg.Error, role: str) -> CommandError:
    """What to tell the user about one of `NOT_HERE`.

    Args:
        error: as raised.
        role: the one that may do it, such as atm_reader.
    """
    if isinstance(error, errors.InsufficientPrivilege):
        return CommandError(
            f"this role may not do it: {error.diag.message_primary}",
            fix=f'let it: GRANT {role} TO "the role"',
        )
    return CommandError(
        f"this database does not have pyatm's views: {error.diag.message_primary}",
        fix="pyatm db migrate makes them; --dsn names another database",
    )


class Reader:
    """A connection for single statements; a lost one is opened again by the next of them.

    Args:
        settings: name the database.
        application_name: shown in `pg_stat_activity`, and kept in atm.audit.
        role: the one of pyatm that a refused user is told to ask for.
    """

    def __init__(
        self,
        settings: Settings,
        application_name: str = "pyatm lookup",
        role: str = "atm_reader",
    ) -> None:
        self._dsn = open_database(settings).dsn
        self._name = application_name
        self._role = role
        self._session: psycopg.Connection[Any] | None = None

    def rows(
        self, query: LiteralString | sql.Composed, parameters: dict[str, object] | None = None
    ) -> list[DictRow]:
        """The rows of one query.

        Raises:
            CommandError: the database is not migrated, or the role may not read this.
            psycopg.Error: everything else that the server refuses.
        """
        try:
            with self._connection().cursor(row_factory=dict_row) as cursor:
                return cursor.execute(query, parameters or {}).fetchall()
        except NOT_HERE as error:
            raise not_here(error, self._role) from None

    def view(
        self,
        name: LiteralString,
        where: Where,
        order: LiteralString,
        limit: int,
        columns: tuple[str, ...],
        empty: str,
    ) -> Section:
        """The rows of a view of schema atm, at most `limit`."""
        bounds = {**where.parameters, "limit": limit + 1}
        rows = self.rows(where.query(name, order), bounds)
        return Section(name, rows[:limit], columns, empty, more=len(rows) > limit)

    @contextmanager
    def transaction(self) -> Generator[None]:
        """One transaction around several statements; `psycopg.Rollback` inside takes them back."""
        with self._connection().transaction():
            yield

    def close(self) -> None:
        """End the connection."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _connection(self) -> psycopg.Connection[Any]:
        if self._session is None or self._session.closed or self._session.broken:
            self._session = connect(self._dsn, application_name=self._name, autocommit=True)
        return self._session


def show(
    settings: Settings,
    ask: Callable[[Reader], Answer],
    *,
    as_json: bool,
    watch: float | None,
    render: "Callable[[Answer], RenderableType] | None" = None,
) -> Answer:
    """Ask once, or again and again until Ctrl-C, and print what was answered.

    Args:
        settings: name the database.
        ask: asks it.
        as_json: print JSON, one object per answer and line.
        watch: seconds between two answers; None: only one.
        render: the answer for people; tables unless given.

    Returns:
        The last answer.
    """
    reader = Reader(settings)
    draw = render or rendered
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=UNBOUNDED_WIDTH)
    try:
        answer = ask(reader)
        if watch is None or as_json or not out.is_terminal:
            _print(out, draw, answer, as_json)
            while watch is not None:
                time.sleep(watch)
                answer = ask(reader)
                _print(out, draw, answer, as_json)
            return answer
        with Live(draw(answer), console=out, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(watch)
                try:
                    answer = ask(reader)
                    live.update(draw(answer), refresh=True)
                except psycopg.OperationalError as error:
                    # An outage is what somebody watches for; the old figures stay in sight.
                    lost = Text(f"no answer from the database: {clean(error)}", style="bold red")
                    live.update(Group(lost, draw(answer)), refresh=True)
    except KeyboardInterrupt:
        if watch is None:
            raise
        # The usual end of watching.
        raise SystemExit(0) from None
    finally:
        reader.close()


def _print(
    out: Console, draw: Callable[[Answer], RenderableType], answer: Answer, as_json: bool
) -> None:
    if as_json:
        print_json(as_object(answer))
    else:
        out.print(draw(answer))


def as_object(answer: Answer) -> dict[str, object]:
    """The answer for `print_json`: times in ISO 8601, intervals in seconds, ids as text."""
    found: dict[str, object] = dict(answer.facts)
    for section in answer.sections:
        found[section.name] = [
            {name: _plain(value) for name, value in row.items()} for row in section.rows
        ]
    found["more"] = any(section.more for section in answer.sections)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def rendered(answer: Answer) -> RenderableType:
    """The answer for people."""
    parts: list[RenderableType] = [Text(clean(line)) for line in answer.heading]
    for section in answer.sections:
        if not section.rows:
            parts.append(Text(section.empty))
            continue
        parts.append(table(section))
        if section.more:
            parts.append(
                Text(f"... and more than these {len(section.rows)}: filter them, or see --limit")
            )
    return Group(*parts)


def table(section: Section, title: str | None = None) -> Table:
    """A section's rows in the columns for people."""
    found = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for name in section.columns:
        is_id = name.endswith("_id")
        found.add_column(name, no_wrap=is_id, overflow="fold", min_width=36 if is_id else None)
    for row in section.rows:
        found.add_row(*(_cell(row[name]) for name in section.columns))
    return found


def _cell(value: object) -> Text:
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
    text = clean(value)
    return Text(text, style=STYLES.get(text, ""))


def clean(value: object) -> str:
    """One line of text; what a terminal would obey, such as an escape, becomes a mark.

    Messages come from VDSM and reasons from people; neither may paint an operator's screen.
    """
    if value is None:
        return ""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in str(value))
