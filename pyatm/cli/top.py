"""`pyatm top`: a live view for operators."""

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pyatm.cli.errors import EXIT_FAILURE, EXIT_USAGE, CommandError
from pyatm.cli.filters import CommandState, Filter
from pyatm.cli.lookup_options import (
    ActionOption,
    EntityOption,
    NewerOption,
    OlderOption,
    PoolOption,
)
from pyatm.cli.options import ConfigOption, DataDirOption, DsnOption, settings_from
from pyatm.database.dsn import open_database
from pyatm.database.session import connect

if TYPE_CHECKING:
    import psycopg


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("top")(top)


def top(
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
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, help="Seconds between two refreshes.")
    ] = 2.0,
) -> None:
    """Follow pools, commands and what is stuck on the terminal.

    Keys: arrows and Tab move, Enter or e explains a command, f filters, x shows all again, c
    cancels a command with a reason after showing what would happen, r refreshes, q quits. The role
    atm_reader suffices, except for c. A refresh asks for a bounded number of rows and the pause
    after it is at least nine times as long as the answer took.

    Example: pyatm top --pool Default --older-than 15min
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        raise CommandError(
            "pyatm top needs a terminal",
            fix="for a program or a file: pyatm commands --json --watch 2",
            exit_code=EXIT_USAGE,
        )
    settings = settings_from(config, dsn, data_dir)
    database = open_database(settings)
    # A database that is not there is told on the plain terminal.
    with connect(database.dsn, application_name="pyatm top", autocommit=True) as session:
        place = _place(session)
    # Imported only here: it costs more than the start of the program.
    from pyatm.cli.top_app import Top
    from pyatm.cli.top_source import Source

    wanted = Filter(action, state.value if state else None, pool, entity, older_than, newer_than)
    app = Top(Source(database.dsn), wanted, interval, place)
    error = app.run()
    if error is not None:
        raise error
    if app.return_code:
        raise typer.Exit(EXIT_FAILURE)


def _place(session: "psycopg.Connection[tuple[object, ...]]") -> str:
    info = session.info
    return f"{info.dbname} on {info.host or 'this host'} as {info.user}"
