"""What the demo shows: a live table on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyatm.demo.expectations import Result

_COLOURS: Final = {
    "planned": "dim",
    "submitting": "yellow",
    "in_doubt": "magenta",
    "running": "cyan",
    "succeeded": "green",
    "failed": "red",
}


@dataclass(frozen=True, slots=True)
class DiskRow:
    """One disk's task as the database has it now.

    Attributes:
        disk: such as `disk 1`.
        state: the task's state, or its outcome once it is done.
        vdsm_task_id: the id VDSM gave, empty while there is none.
        vdsm_state: what VDSM said last, empty while it has said nothing.
    """

    disk: str
    state: str
    vdsm_task_id: str = ""
    vdsm_state: str = ""


class Display(Protocol):
    """Where the demo reports to."""

    def heading(self, text: str) -> None:
        """A new part begins."""
        ...

    def say(self, text: str) -> None:
        """Something happened."""
        ...

    def disks(self, rows: Sequence[DiskRow]) -> None:
        """The tasks as they are now; the same rows again cost nothing."""
        ...

    def results(self, results: Sequence[Result]) -> None:
        """Everything is over: what happened and whether it was as expected."""
        ...

    def hint(self, title: str, lines: Sequence[str]) -> None:
        """What the user can do now."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class Silent:
    """Shows nothing."""

    def heading(self, text: str) -> None:
        del text

    def say(self, text: str) -> None:
        del text

    def disks(self, rows: Sequence[DiskRow]) -> None:
        del rows

    def results(self, results: Sequence[Result]) -> None:
        del results

    def hint(self, title: str, lines: Sequence[str]) -> None:
        del title, lines

    def close(self) -> None:
        pass


class Lines:
    """Plain lines, each with the seconds since the start; a line per change of a task.

    Args:
        console: writes them.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._shown: dict[str, DiskRow] = {}

    def heading(self, text: str) -> None:
        self._shown = {}
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def say(self, text: str) -> None:
        self._line(Text(text))

    def disks(self, rows: Sequence[DiskRow]) -> None:
        for row in rows:
            if self._shown.get(row.disk) == row:
                continue
            self._shown[row.disk] = row
            self._line(_sentence(row))

    def results(self, results: Sequence[Result]) -> None:
        self._console.print()
        self._console.print(_result_table(results))
        for result in results:
            for expectation in result.expectations:
                if not expectation.held:
                    self._console.print(
                        f"{result.name}: {expectation.what}: expected {expectation.expected}, "
                        f"found {expectation.found}",
                        style="red",
                        markup=False,
                    )

    def hint(self, title: str, lines: Sequence[str]) -> None:
        self._console.print()
        self._console.print(Text(title, style="bold"))
        for line in lines:
            self._console.print(Text("    " + line), soft_wrap=True)

    def close(self) -> None:
        pass

    def _line(self, text: Text) -> None:
        passed = time.monotonic() - self._started
        self._console.print(
            Text(f"{passed:6.1f} s  ", style="dim").append_text(text), soft_wrap=True
        )


class Terminal(Lines):
    """Lines, and below them a table of the disks that changes in place.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._rows: Sequence[DiskRow] = ()
        self._live: Live | None = None

    def heading(self, text: str) -> None:
        self.close()
        super().heading(text)

    def disks(self, rows: Sequence[DiskRow]) -> None:
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=8)
            self._live.start()
        self._live.update(Group(Text(), _disk_table(rows)))

    def results(self, results: Sequence[Result]) -> None:
        self.close()
        super().results(results)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def choose(*, silent: bool) -> Display:
    """The display for this run.

    Args:
        silent: show nothing, whatever standard output is.
    """
    if silent:
        return Silent()
    console = Console(highlight=False)
    return Terminal(console) if console.is_terminal else Lines(console)


def _sentence(row: DiskRow) -> Text:
    text = Text(f"{row.disk}: ").append(row.state, style=_COLOURS.get(row.state, ""))
    if row.vdsm_task_id:
        text.append(f", VDSM's task {row.vdsm_task_id[:8]}")
    if row.vdsm_state:
        text.append(f" is {row.vdsm_state}")
    return text


def _disk_table(rows: Sequence[DiskRow]) -> Table:
    table = Table("disk", "task", "VDSM's task", "VDSM says")
    for row in rows:
        state = Text(row.state, style=_COLOURS.get(row.state, ""))
        table.add_row(row.disk, state, row.vdsm_task_id[:8], row.vdsm_state)
    return table


def _result_table(results: Sequence[Result]) -> Table:
    table = Table("scenario", "command", "tasks", "bound", "seconds", "expectations")
    for result in results:
        held = sum(expectation.held for expectation in result.expectations)
        wanted = len(result.expectations)
        verdict = f"all {wanted} held" if held == wanted else f"{wanted - held} of {wanted} failed"
        table.add_row(
            result.name,
            Text(result.outcome, style=_COLOURS.get(result.outcome, "")),
            str(result.tasks),
            str(result.bound),
            f"{result.seconds:.1f}",
            Text(verdict, style="green" if held == wanted else "red"),
        )
    return table
