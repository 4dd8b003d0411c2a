"""`make screens`: the pictures in docs/screens/, taken from the running program.

A database is filled with what operators are called for (tests/cli/mess.py), and the demo is played.
Nothing is drawn by hand; ids, times and figures differ from run to run.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pexpect
import psycopg
from rich.console import Console
from rich.text import Text

from pyatm.cli.filters import Filter
from pyatm.cli.top_app import Top
from pyatm.cli.top_source import Source
from pyatm.database.embedded import private_server
from pyatm.database.migrate import migrate
from pyatm.demo.display import Lines
from pyatm.demo.play import play
from tests.cli.mess import Mess, add_bad_pools, add_load, make_mess

if TYPE_CHECKING:
    from collections.abc import Callable

SCREENS = ("demo", "top", "cancel", "explain")
WIDTH = 150


def main() -> None:
    """Take the pictures that were asked for, or all."""
    parser = argparse.ArgumentParser(description="Take the pictures in docs/screens/.")
    parser.add_argument("--to", type=Path, default=Path(__file__).with_name("screens"))
    parser.add_argument("--tasks", type=int, default=5000, help="running tasks of the busy pool")
    parser.add_argument("--only", nargs="+", choices=SCREENS, default=SCREENS)
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    taken = {"demo": _demo()} if "demo" in given.only else {}
    if set(given.only) - {"demo"}:
        with private_server(durable=False) as server:
            migrate(server.dsn())
            with psycopg.connect(server.dsn(), autocommit=True) as db:
                mess = make_mess(db, "no row for this disk in the inventory")
                add_load(db, given.tasks)
                add_bad_pools(db)
            taken |= asyncio.run(_top(server.dsn(), mess))
            taken["explain"] = _explain(server.dsn(), mess)
    for name in given.only:
        (given.to / f"{name}.svg").write_text(taken[name], encoding="utf-8")


async def _top(dsn: str, mess: Mess) -> dict[str, str]:
    """The live view, and its dialog before a command is cancelled."""
    app = Top(Source(dsn), Filter(), 0.5, "pyatm on db1 as operator")
    async with app.run_test(size=(WIDTH, 34)) as pilot:
        table: Any = app.query_one("#commands")
        await _until(lambda: table.row_count > 0)
        await pilot.pause(0.5)
        taken = {"top": app.export_screenshot(title="pyatm top")}
        table.move_cursor(row=table.get_row_index(str(mess.running)))
        await pilot.press("c")
        await _until(lambda: len(app.screen_stack) == 2)
        await pilot.press(*"the wrong VM", "enter")
        await _until(lambda: app.screen.query_one("#reason").disabled)
        await pilot.pause(0.5)
        taken["cancel"] = app.export_screenshot(title="pyatm top, key c")
    return taken


async def _until(holds: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise SystemExit("pyatm top does not get so far")
        await asyncio.sleep(0.05)


class _LastScenario(Lines):
    """Keeps what was shown since the last heading."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._recording = console

    def heading(self, text: str) -> None:
        self._recording.export_text(clear=True)
        super().heading(text)


def _demo() -> str:
    """The end of `make demo`: its last scenario and the results."""
    console = _recorder(100)
    display = _LastScenario(console)
    verdict = play(display, keep=False)
    display.results(verdict.results)
    if not verdict.held:
        raise SystemExit("an expectation of the demo did not hold")
    return console.export_svg(title="make demo")


def _explain(dsn: str, mess: Mess) -> str:
    """`pyatm explain` on a terminal."""
    terminal = pexpect.spawn(
        sys.executable,
        ["-m", "pyatm.cli.start", "explain", str(mess.end_failed)],
        env=os.environ | {"TERM": "xterm-256color", "PYATM_DSN": dsn},
        dimensions=(50, WIDTH),
        encoding="utf-8",
        timeout=120,
    )
    terminal.expect(pexpect.EOF)
    terminal.close()
    if terminal.exitstatus != 0:
        raise SystemExit(f"pyatm explain ended with {terminal.exitstatus}: {terminal.before}")
    console = _recorder(WIDTH)
    console.print(Text.from_ansi(str(terminal.before).replace("\r\n", "\n").rstrip()))
    return console.export_svg(title="pyatm explain")


def _recorder(width: int) -> Console:
    return Console(
        record=True, width=width, file=io.StringIO(), force_terminal=True, highlight=False
    )


if __name__ == "__main__":
    main()
