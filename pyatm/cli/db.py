"""`pyatm db`: migrate, status, dump-sql, psql."""

import typer

db = typer.Typer(no_args_is_help=True, help="The database: migrate it, look at it, connect to it.")


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    app.add_typer(db, name="db")


@db.callback()
def _db() -> None: ...
