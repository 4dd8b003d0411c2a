"""`pyatm db`: migrate, status, inventory, dump-sql, psql, stop."""

import os
import shutil
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from psycopg.conninfo import make_conninfo

from pyatm.cli.errors import EXIT_FAILURE, CommandError
from pyatm.cli.options import ConfigOption, DataDirOption, DsnOption, JsonOption, settings_from
from pyatm.cli.output import console, print_json
from pyatm.config import Settings
from pyatm.database import migrate as migration
from pyatm.database.dsn import Database, open_database, parse, redacted, resolve
from pyatm.database.postgres_programs import find_programs
from pyatm.database.script import schema_script
from pyatm.flows.setup import install_inventory

db = typer.Typer(no_args_is_help=True, help="The database: migrate it, look at it, connect to it.")


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(db, name="db")


@db.command()
def migrate(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    lock_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds to wait for another migration or a lock.")
    ] = migration.LOCK_TIMEOUT,
    reload: Annotated[
        bool, typer.Option("--reload", help="Load functions and views even if unchanged.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring the database to this program's schema. Safe to repeat, at any time.

    Example: pyatm db migrate --dsn "host=db1 dbname=pyatm user=dba"
    """
    database = open_database(settings_from(config, dsn, data_dir))
    result = migration.migrate(database.direct_dsn, lock_timeout=lock_timeout, reload=reload)
    if as_json:
        print_json(asdict(result))
        return
    out = console()
    for name in result.applied:
        out.print(f"applied  {name}")
    for name in result.dropped:
        out.print(f"dropped  {name}")
    if result.loaded:
        out.print("loaded   functions, views and grants")
    else:
        out.print("the database is up to date")


@db.command()
def status(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how the database stands to this program. Exit code 1: it needs `pyatm db migrate`.

    Example: pyatm db status --json
    """
    database = open_database(settings_from(config, dsn, data_dir))
    found = migration.status(database.direct_dsn)
    if as_json:
        print_json({**asdict(found), "up_to_date": found.up_to_date, "dsn": redacted(database.dsn)})
    else:
        out = console()
        out.print(f"database    {redacted(database.dsn)}", soft_wrap=True)
        out.print(f"server      PostgreSQL {found.server_version}")
        out.print(f"migrations  {len(found.applied)} applied, {len(found.pending)} pending")
        for label, names in (
            ("pending", found.pending),
            ("unknown", found.unknown),
            ("edited", found.edited),
        ):
            for name in names:
                out.print(f"  {label}   {name}")
        out.print(f"functions   {'current' if found.files_loaded else 'not current'}")
        if found.unknown:
            out.print("The database was migrated by a newer pyatm; upgrade this one.")
        elif not found.up_to_date:
            out.print("Run: pyatm db migrate")
    if not found.up_to_date:
        raise typer.Exit(EXIT_FAILURE)


@db.command()
def inventory(
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make the toy inventory of the reference flows and let atm_engine use it. Safe to repeat.

    Example: pyatm db inventory --dsn "host=db1 dbname=pyatm user=dba"
    """
    install_inventory(open_database(settings_from(config, dsn, data_dir)).direct_dsn)
    console().print("the toy inventory is in schema pyatm_inventory")


@db.command("dump-sql")
def dump_sql() -> None:
    """Print the whole schema as one script for psql and an empty database.

    Example: pyatm db dump-sql | psql --no-psqlrc --file=- newdatabase
    """
    for part in schema_script():
        sys.stdout.write(part)


@db.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(
    context: typer.Context,
    config: ConfigOption = None,
    dsn: DsnOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Connect with psql; arguments after -- go to psql.

    Example: pyatm db psql -- --command "SELECT * FROM atm.commands"
    """
    settings = settings_from(config, dsn, data_dir)
    database = open_database(settings)
    program = _psql_program(database)
    parameters = parse(database.direct_dsn)
    # A password among the arguments would be seen by everybody who lists processes.
    environment = dict(os.environ)
    if "password" in parameters:
        environment["PGPASSWORD"] = parameters.pop("password")
    arguments = [program, "--dbname", make_conninfo("", **parameters), *context.args]
    sys.stdout.flush()
    os.execve(program, arguments, environment)  # noqa: S606


@db.command()
def stop(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Stop the embedded server; the next command that needs it starts it again.

    Example: pyatm db stop
    """
    server = resolve(_embedded(settings_from(config, None, data_dir))).server
    if server is None or server.pid is None:
        console().print("the embedded server does not run")
        return
    server.stop()
    console().print("the embedded server has stopped")


def _embedded(settings: Settings) -> Settings:
    return settings.model_copy(update={"dsn": None, "listen_dsn": None})


def _psql_program(database: Database) -> str:
    if found := shutil.which("psql"):
        return found
    programs = database.server.programs if database.server else find_programs()
    path = programs.path("psql")
    if not os.access(path, os.X_OK):
        raise CommandError("psql is not installed", fix="install PostgreSQL's client programs")
    return path
