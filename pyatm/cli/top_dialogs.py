"""The dialogs of `pyatm top`: filter, explain, cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import psycopg
from rich.text import Text
from textual import on, work
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from pyatm.cli.errors import CommandError
from pyatm.cli.filters import CommandState, Filter, checked_age, checked_entity
from pyatm.cli.lookups import Section, clean, table
from pyatm.cli.top_source import LostError, Source

if TYPE_CHECKING:
    from uuid import UUID

    from rich.console import RenderableType
    from textual.app import ComposeResult

REFUSED: Final = (CommandError, LostError, psycopg.Error)
"""What a question to the database may end with."""


def words(error: Exception) -> str:
    """The error for people, with its remedy."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary is not None:
        diag = error.diag
        parts = [f"{diag.message_primary} ({diag.sqlstate})", diag.message_hint]
    elif isinstance(error, LostError):
        parts = [f"the database does not answer: {error}"]
    else:
        parts = [str(error), getattr(error, "fix", None)]
    return ". ".join(clean(part) for part in parts if part)


class FilterDialog(ModalScreen["Filter | None"]):
    """Asks what to show; None: nothing was changed."""

    FIELDS: ClassVar[dict[str, tuple[str, str]]] = {
        "action": ("action", "RemoveVm"),
        "state": ("state", ", ".join(CommandState)),
        "pool": ("pool", "its name or id"),
        "entity": ("entity", "TYPE:UUID, such as Disk:9a1f..."),
        "older_than": ("older than", "30s, 15min, 2h, 7d"),
        "newer_than": ("newer than", "30s, 15min, 2h, 7d"),
    }
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "back")]

    def __init__(self, current: Filter) -> None:
        super().__init__()
        self._current = current

    def compose(self) -> ComposeResult:
        """One line per filter."""
        with Vertical(classes="dialog"):
            yield Label("Show only (Enter applies, Tab goes on, Esc goes back)", markup=False)
            for name, (label, hint) in self.FIELDS.items():
                yield Label(label, markup=False, classes="field")
                value = getattr(self._current, name) or ""
                yield Input(value, placeholder=hint, id=name, compact=True)
            yield Static("", id="problem", markup=False)

    @on(Input.Submitted)
    def apply(self) -> None:
        """Check what was typed and give it back."""
        given = {name: self.query_one(f"#{name}", Input).value.strip() for name in self.FIELDS}
        try:
            if given["state"] and given["state"] not in [*CommandState]:
                raise ValueError(f"{given['state']!r} is no state; {', '.join(CommandState)} are")
            checked_entity(given["entity"] or None)
            checked_age(given["older_than"] or None)
            checked_age(given["newer_than"] or None)
        except ValueError as error:
            self.query_one("#problem", Static).update(str(error))
            return
        self.dismiss(Filter(**{name: value or None for name, value in given.items()}))

    def action_leave(self) -> None:
        """Change nothing."""
        self.dismiss(None)


class ExplainDialog(ModalScreen[None]):
    """The rows of atm.explain."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,e", "leave", "back"),
        Binding("r", "ask", "ask again"),
    ]

    def __init__(self, source: Source, command_id: UUID) -> None:
        super().__init__()
        self._source = source
        self._command_id = command_id

    def compose(self) -> ComposeResult:
        """The story, scrolled with the arrow keys."""
        with VerticalScroll(classes="dialog wide"):
            yield Label(f"{self._command_id} (r asks again, Esc goes back)", markup=False)
            yield Static("asking ...", id="story", markup=False)

    def on_mount(self) -> None:
        """Ask as soon as the dialog is there."""
        self.query_one(VerticalScroll).focus()
        self.action_ask()

    @work(exclusive=True)
    async def action_ask(self) -> None:
        """Ask the database."""
        story = self.query_one("#story", Static)
        try:
            rows = await self._source.explain(self._command_id)
        except REFUSED as error:
            story.update(Text(words(error), style="bold red"))
            return
        columns = ("at", "what", "who", "detail")
        story.update(table(Section("explain", rows, columns, "nothing is known")))

    def action_leave(self) -> None:
        """Back to the tables."""
        self.dismiss(None)


class CancelDialog(ModalScreen["str | None"]):
    """Asks for a reason, shows what would happen, asks once more; a sentence if it was done."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n", "leave", "leave it"),
        Binding("y", "confirm", "cancel it"),
    ]

    def __init__(self, source: Source, command_id: UUID, title: str) -> None:
        super().__init__()
        self._source = source
        self._command_id = command_id
        self._title = title
        self._reason: str | None = None

    def compose(self) -> ComposeResult:
        """The reason first."""
        with Vertical(classes="dialog"):
            yield Label(f"Cancel {self._title} {self._command_id}", markup=False)
            yield Label("why? (Enter shows what would happen, Esc leaves it)", markup=False)
            yield Input(placeholder="kept in atm.audit", id="reason", compact=True)
            yield Static("", id="effect", markup=False)
            yield Static("", id="problem", markup=False)

    @on(Input.Submitted)
    @work(exclusive=True)
    async def show_effect(self, event: Input.Submitted) -> None:
        """The dry run."""
        rows = await self._call(event.value.strip(), dry_run=True)
        if rows is None:
            return
        self._reason = event.value.strip()
        event.input.disabled = True
        self._problem("")
        self.query_one("#effect", Static).update(rows)
        self.query_one("#problem", Static).update(
            Text("Nothing has happened yet. y: cancel the command, n: leave it", style="bold")
        )

    @work(exclusive=True)
    async def action_confirm(self) -> None:
        """The real call, once the dry run was shown."""
        if self._reason is None:
            return
        if await self._call(self._reason, dry_run=False) is not None:
            self.dismiss(f"{self._title} {self._command_id} is cancelled")

    def action_leave(self) -> None:
        """Change nothing."""
        self.dismiss(None)

    async def _call(self, reason: str, *, dry_run: bool) -> RenderableType | None:
        if not reason:
            self._problem("a reason is needed; it is kept in atm.audit")
            return None
        try:
            rows = await self._source.cancel(self._command_id, reason, dry_run=dry_run)
        except REFUSED as error:
            self._problem(words(error))
            return None
        none = Text("it has no task")
        columns = ("tasks", "state", "effect")
        return table(Section("effect", rows, columns, "")) if rows else none

    def _problem(self, text: str) -> None:
        self.query_one("#problem", Static).update(Text(text, style="bold red"))
