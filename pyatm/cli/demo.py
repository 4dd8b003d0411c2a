"""`pyatm demo`: a VM is removed, and two engine crashes are survived."""

import asyncio
import signal
import sys
from types import FrameType
from typing import Annotated, Final

import typer

from pyatm.cli.errors import EXIT_FAILURE, CommandError
from pyatm.cli.options import JsonOption
from pyatm.cli.output import print_json
from pyatm.demo.display import Display, choose
from pyatm.demo.play import Verdict, play
from pyatm.demo.processes import ChildError
from pyatm.demo.stage import DemoError
from pyatm.simulator.process import SimulatorProcessError

QUESTIONS: Final = (
    "SELECT * FROM atm.commands;  -- what runs now",
    "SELECT command_id, action_type, outcome, took FROM atm.history;  -- what ran",
    "SELECT * FROM atm.explain((SELECT command_id FROM atm.history WHERE outcome = 'failed'));",
    "SELECT * FROM atm.stuck;  -- what waits, for what, whose turn it is",
    "SELECT * FROM atm.check();  -- is all well",
    "SELECT * FROM atm.audit;  -- who changed what, and why",
)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(demo)


def demo(
    as_json: JsonOption = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the database and say how to connect to it.")
    ] = False,
) -> None:
    """Remove a VM with 4 disks on real processes, and survive two engine crashes.

    An own PostgreSQL server, a simulated VDSM, the poller and the engine are started as processes
    of their own and end with the demo. Exit code 0: every expectation held.

    Example: pyatm demo --keep
    """
    signal.signal(signal.SIGTERM, _terminated)
    display = choose(silent=as_json)
    try:
        verdict = play(display, keep=keep)
        display.results(verdict.results)
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    except (DemoError, ChildError, SimulatorProcessError) as error:
        raise CommandError(f"the demo cannot go on: {error}") from None
    finally:
        display.close()
    if as_json:
        print_json(verdict.as_json())
        if verdict.kept is not None:
            typer.echo(f"pyatm db psql --data-dir {verdict.kept}", err=True)
    else:
        _hints(display, verdict)
    if not verdict.held:
        raise typer.Exit(EXIT_FAILURE)


def _terminated(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)


def _hints(display: Display, verdict: Verdict) -> None:
    if verdict.kept is not None:
        display.hint(
            "The database is kept and its server runs. To connect:",
            [f"pyatm db psql --data-dir {verdict.kept}", f'psql "{verdict.dsn}"'],
        )
    display.hint("What a DBA can type in psql:", QUESTIONS)
    if verdict.kept is not None:
        display.hint(
            "To remove the database:",
            [f"pyatm db stop --data-dir {verdict.kept} && rm -r {verdict.kept}"],
        )
    else:
        display.hint("This database is gone; to keep the next one:", ["pyatm demo --keep"])
