"""The screen of `pyatm top`: pools, what is stuck, commands with the progress of their tasks."""

from __future__ import annotations

import asyncio
import signal
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final, cast

from rich.text import Text
from textual.app import App
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, Static

from pyatm.cli.errors import CommandError
from pyatm.cli.filters import Filter
from pyatm.cli.lookups import STYLES, clean
from pyatm.cli.top_dialogs import REFUSED, CancelDialog, ExplainDialog, FilterDialog, words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from psycopg.rows import DictRow
    from textual.app import ComposeResult

    from pyatm.cli.top_source import Progress, Snapshot, Source

SHARE: Final = 9
"""A refresh that took one second is followed by a pause of at least this many."""
NOT_LISTED: Final = timedelta(minutes=1)
"""A pool with tasks whose last listing is older than this is marked."""
BAR: Final = 12
"""Characters of a progress bar."""

Table = DataTable[Text]
Cells = tuple[object, ...]

COLUMNS: Final = {
    "pools": ("pool", "poller", "SPM", "polled ago", "tasks", "unknown", "remark"),
    "stuck": ("action", "age", "turn", "command", "waits for"),
    "commands": ("action", "state", "age", "tasks", "progress", "engine", "command"),
}


class Top(App[CommandError | None]):
    """The live view.

    Args:
        source: answers.
        wanted: the filter at the start.
        interval: seconds between two refreshes; longer when the database needs longer.
        place: where the figures come from, shown in the first line.
    """

    CSS = """
    Screen { layout: vertical; }
    #head { height: auto; padding: 0 1; }
    #problem { height: auto; padding: 0 1; }
    DataTable { border-top: solid $primary; border-title-color: $text; height: auto; }
    DataTable:focus { border-top: heavy $accent; }
    #pools { max-height: 8; }
    #stuck { max-height: 40%; }
    #commands { height: 1fr; }
    ModalScreen { align: center middle; }
    .dialog { width: 90%; max-width: 110; height: auto; max-height: 90%; padding: 1 2;
              border: heavy $accent; background: $surface; }
    .wide { max-width: 100%; height: 90%; }
    .field { padding-top: 1; }
    .dialog #problem { color: $error; padding: 1 0 0 0; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("ctrl+c", "quit", "quit", show=False, priority=True),
        Binding("f", "filter", "filter"),
        Binding("x", "all", "show all"),
        Binding("e", "explain", "explain"),
        Binding("c", "cancel", "cancel"),
        Binding("r", "refresh", "refresh"),
    ]

    def __init__(self, source: Source, wanted: Filter, interval: float, place: str) -> None:
        super().__init__()
        self._source = source
        self._wanted = wanted
        self._interval = interval
        self._place = clean(place)
        self._hurry = asyncio.Event()
        self._last: Snapshot | None = None
        self._last_at = ""
        self._commands: dict[str, tuple[UUID, str]] = {}
        self._pools: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        """Figures, what is wrong, three tables, keys."""
        yield Static("asking ...", id="head", markup=False)
        yield Static("", id="problem", markup=False)
        for name in COLUMNS:
            yield Table(id=name, cursor_type="row", zebra_stripes=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Name the columns and begin to ask."""
        for name, columns in COLUMNS.items():
            found = self._table(name)
            found.add_columns(*columns)
            found.border_title = name
        self._line("problem").display = False
        self._table("commands").focus()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.exit)
        self.run_worker(self._follow(), exit_on_error=True)

    async def on_unmount(self) -> None:
        """Leave no connection behind."""
        await self._source.close()

    async def _follow(self) -> None:
        while True:
            pause = self._interval
            self._hurry.clear()
            try:
                found = await self._source.snapshot(self._wanted)
            except CommandError as error:
                # Nothing will become better by asking again.
                self.exit(error)
                return
            except REFUSED as error:
                self._complain(error)
            else:
                self._show(found)
                pause = max(pause, SHARE * found.seconds)
            try:
                async with asyncio.timeout(pause):
                    await self._hurry.wait()
            except TimeoutError:
                pass

    def _complain(self, error: Exception) -> None:
        since = f" The figures are those of {self._last_at}." if self._last_at else ""
        text = f"{words(error)}.{since} Asking again every {self._interval:g} s."
        line = self._line("problem")
        line.update(Text(text, style="bold white on red"))
        line.display = True

    def _show(self, found: Snapshot) -> None:
        self._last, self._last_at = found, datetime.now().astimezone().strftime("%H:%M:%S")
        self._line("problem").display = False
        self._line("head").update(self._head(found))
        self._commands, self._pools = {}, {}
        stuck = {row["root_command_id"] for row in found.stuck}
        self._fill("pools", found.pools, self._pool, found.more_pools)
        self._fill("stuck", found.stuck, self._stuck, found.more_stuck)
        # Those that wait for somebody first; the rest stays in the order of the database.
        commands = sorted(found.commands, key=lambda row: row["root_command_id"] not in stuck)

        def command(row: DictRow) -> tuple[str, Cells]:
            root = row["root_command_id"]
            return self._command(row, found.progress[root], root in stuck)

        self._fill("commands", commands, command, found.more_commands)
        self._table("stuck").display = bool(found.stuck)

    def _fill(
        self,
        name: str,
        rows: Sequence[DictRow],
        draw: Callable[[DictRow], tuple[str, Cells]],
        more: bool,
    ) -> None:
        found = self._table(name)
        key = _key(found)
        scroll = found.scroll_y
        found.clear()
        for row in rows:
            row_key, cells = draw(row)
            if row_key not in found.rows:
                found.add_row(*(_text(cell) for cell in cells), key=row_key)
        found.border_title = f"{name}: {len(rows)}" + (" and more; f filters" if more else "")
        if key is not None and key in found.rows:
            found.move_cursor(row=found.get_row_index(key), animate=False, scroll=False)
        found.scroll_to(y=scroll, animate=False)

    def _head(self, found: Snapshot) -> Text:
        text = Text(f"pyatm top  {self._place}  {self._last_at}\n")
        for name, label in (("atm_commands", "commands"), ("atm_tasks", "tasks")):
            counted = {s: n for (metric, s), n in found.totals.items() if metric == name and n}
            parts = ", ".join(f"{n} {state}" for state, n in counted.items())
            text.append(f"{label}: {sum(counted.values())}")
            text.append(f" ({parts})  " if parts else "  ", style="dim")
        if self._wanted.words():
            text.append(f"\nonly {clean(self._wanted.words())} (x: all)", style="yellow")
        return text

    def _pool(self, row: DictRow) -> tuple[str, Cells]:
        key = str(row["storage_pool_id"])
        self._pools[key] = key
        remarks = [
            ("drained", row["drained"]),
            ("not listed", not row["idle"] and _older(row["polled_ago"], NOT_LISTED)),
            ("unreadable statuses", row["unreadable"] is not None),
            ("no poller", row["poller"] is None or _past(row["lease_until"])),
        ]
        remark = Text(", ".join(word for word, holds in remarks if holds), style="yellow")
        ago = "" if row["polled_ago"] is None else f"{row['polled_ago'].total_seconds():.1f} s"
        cells = (row["pool_name"], row["poller"], row["spm_host"], ago, row["tasks"])
        return key, (*cells, row["unknowns"], remark)

    def _stuck(self, row: DictRow) -> tuple[str, Cells]:
        key = f"{row['root_command_id']} {row['task_id']} {row['waits_for']}"
        self._commands[key] = (row["root_command_id"], row["action_type"])
        turn = Text(clean(row["turn"]), style=STYLES.get(row["turn"], ""))
        cells = (row["action_type"], row["age"], turn, row["root_command_id"], row["waits_for"])
        return key, cells

    def _command(self, row: DictRow, progress: Progress, stuck: bool) -> tuple[str, Cells]:
        key = str(row["root_command_id"])
        self._commands[key] = (row["root_command_id"], row["action_type"])
        state = Text(clean(row["state"]), style=STYLES.get(row["state"], ""))
        if stuck:
            state.append(" !", style="bold red")
        tasks = ", ".join(f"{n} {name}" for name, n in sorted(progress.states.items()))
        cells = (row["action_type"], state, row["age"], bar(progress), tasks, row["engine_name"])
        return key, (*cells, key)

    def action_refresh(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Ask now."""
        self._hurry.set()

    def action_filter(self) -> None:
        """Ask what to show."""
        self.push_screen(FilterDialog(self._wanted), self._narrow)

    def action_all(self) -> None:
        """Show everything again."""
        self._narrow(Filter())

    def _narrow(self, wanted: Filter | None) -> None:
        if wanted is not None:
            self._wanted = wanted
            self._hurry.set()

    def action_explain(self) -> None:
        """The story of the command under the cursor."""
        chosen = self._chosen()
        if chosen is not None:
            self.push_screen(ExplainDialog(self._source, chosen[0]))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter: a pool becomes the filter, a command is explained."""
        pool = self._pools.get(str(event.row_key.value))
        if pool is not None:
            self._narrow(Filter(pool=pool))
        else:
            self.action_explain()

    def action_cancel(self) -> None:
        """Ask for a reason, unless this role may not cancel at all."""
        chosen = self._chosen()
        if chosen is not None:
            self.run_worker(self._cancel(*chosen), group="cancel", exclusive=True)

    async def _cancel(self, command_id: UUID, action_type: str) -> None:
        try:
            may = await self._source.may_cancel()
        except REFUSED as error:
            self.notify(words(error), severity="error", markup=False)
            return
        if not may:
            text = 'this role may only look. To cancel: GRANT atm_operator TO "the role"'
            self.notify(text, severity="warning", markup=False)
            return
        dialog = CancelDialog(self._source, command_id, clean(action_type))
        self.push_screen(dialog, self._cancelled)

    def _cancelled(self, sentence: str | None) -> None:
        if sentence is not None:
            self.notify(sentence, markup=False)
            self._hurry.set()

    def _chosen(self) -> tuple[UUID, str] | None:
        name = "stuck" if self.focused is self._table("stuck") else "commands"
        chosen = self._commands.get(_key(self._table(name)) or "")
        if chosen is None:
            self.notify("no command is chosen", severity="warning", markup=False)
        return chosen

    def _line(self, name: str) -> Static:
        # A dialog may be the current screen.
        return self.screen_stack[0].query_one(f"#{name}", Static)

    def _table(self, name: str) -> Table:
        return cast(Table, self.screen_stack[0].query_one(f"#{name}", DataTable))


def bar(progress: Progress) -> Text:
    """How many tasks are over, as a bar and a fraction; red when one has failed."""
    if progress.tasks == 0:
        return Text("no tasks", style="dim")
    filled = BAR * progress.done // progress.tasks
    failed = progress.done > progress.states.get("succeeded", 0)
    text = Text("\u2588" * filled, style="red" if failed else "green")
    text.append("\u2591" * (BAR - filled), style="dim")
    return text.append(f" {progress.done}/{progress.tasks}", style="none")


def _text(cell: Text | object) -> Text:
    return cell if isinstance(cell, Text) else Text(clean(cell))


def _key(found: Table) -> str | None:
    if not found.row_count or not found.is_valid_coordinate(found.cursor_coordinate):
        return None
    return found.coordinate_to_cell_key(found.cursor_coordinate).row_key.value


def _older(age: timedelta | None, limit: timedelta) -> bool:
    return age is None or age > limit


def _past(moment: datetime | None) -> bool:
    return moment is None or moment.timestamp() < time.time()
