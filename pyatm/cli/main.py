"""The `pyatm` program: assembles the commands and turns errors into messages and exit codes."""

import os
import sys
from typing import Annotated

import psycopg
import typer
from rich.console import Console

from pyatm import __version__
from pyatm.cli.errors import EXIT_CONFIGURATION, EXIT_FAILURE, CommandError
from pyatm.cli.lazy import LazyGroup
from pyatm.cli.output import log_to_stderr
from pyatm.config import ConfigurationError
from pyatm.database.errors import DatabaseError, DsnError

app = typer.Typer(
    name="pyatm",
    cls=LazyGroup,
    help="The async task manager of oVirt, on PostgreSQL.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pyatm {__version__}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the program; the exit code is 0, 1 (failure), 2 (usage) or 78 (configuration)."""
    log_to_stderr()
    try:
        app()
    except CommandError as error:
        _complain(str(error), error.fix)
        sys.exit(error.exit_code)
    except (ConfigurationError, DsnError) as error:
        _complain(str(error), None)
        sys.exit(EXIT_CONFIGURATION)
    except DatabaseError as error:
        _complain(str(error), None)
        sys.exit(EXIT_FAILURE)
    except psycopg.Error as error:
        _complain(_from_server(error), None)
        sys.exit(EXIT_FAILURE)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) has gone; Python would complain once more while flushing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("PYATM_TRACEBACK"):
            raise
        _complain(f"{type(error).__name__}: {error}", "PYATM_TRACEBACK=1 shows where it happened")
        sys.exit(EXIT_FAILURE)


def _from_server(error: psycopg.Error) -> str:
    diag = error.diag
    if diag.message_primary is None:
        return f"the database cannot be reached: {str(error).strip()}"
    parts = [f"{diag.message_primary} ({diag.sqlstate})", diag.message_detail, diag.message_hint]
    return "\n       ".join(part for part in parts if part)


def _complain(message: str, fix: str | None) -> None:
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    console.print(f"pyatm: {message}")
    if fix:
        console.print(f"       {fix}")


if __name__ == "__main__":
    main()
