"""report_poll above READ COMMITTED: its snapshot against its listing.

orphan_policy is `all` here, the setting under which a mistake does most harm. The rule: the
transaction begins after the listing has arrived (one that began before gets 40001), so that every
task in the listing was announced when the snapshot was taken. A binding committed after the
snapshot is invisible, but its task is then still seen as a suspect. Flaw: `snapshot_before_list`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .search import Step
from .small import REPEATABLE_READ, Small

if TYPE_CHECKING:
    from collections.abc import Iterator


class Meeting(NamedTuple):
    """One task on its way and one report."""

    task: str = "planned"  # submitting, running, done
    job: str = ""  # run, ok, gone
    report: str = "idle"  # listing, listed, begun, then idle again
    snapshot: str = ""  # the task's state in it
    listed: str = ""
    clear: bool = False  # on the to-do list


@dataclass(frozen=True, slots=True)
class ReportSnapshot(Small):
    """One engine's task, one poller."""

    @property
    def name(self) -> str:
        """For the table."""
        return f"report and snapshot, {self.isolation}"

    def first(self) -> Meeting:
        """The task is planned."""
        return Meeting()

    def at_rest(self, state: Meeting) -> bool:
        """The database knows the end."""
        return state.task == "done"

    def violations(self, state: Meeting) -> Iterator[str]:
        """Nothing is cleared before the command has seen its end."""
        if state.job == "gone" and state.task != "done":
            yield "3: cleared at VDSM before its command could see the end"

    def steps(self, state: Meeting) -> Iterator[Step]:
        """The engine, VDSM, and the statements of the report."""
        if state.task == "planned":
            yield Step("submit", True, state._replace(task="submitting"))
        if state.task == "submitting" and not state.job:
            yield Step("born", True, state._replace(job="run"))
        if state.task == "submitting" and state.job:
            yield Step("bind", True, state._replace(task="running"))
        if state.job == "run":
            yield Step("job_done", True, state._replace(job="ok"))
        if state.clear and state.job == "ok":
            yield Step("clear", True, state._replace(job="gone", clear=False))
        early = "snapshot_before_list" in self.flaws
        if state.report == "idle":
            snapshot = state.task if early else ""
            yield Step("poll_begins", True, state._replace(report="listing", snapshot=snapshot))
        elif state.report == "listing":
            listed = state.job if state.job != "gone" else ""
            yield Step("list", True, state._replace(report="listed", listed=listed))
        elif state.report == "listed":
            snapshot = state.snapshot if early else state.task
            yield Step("begin", True, state._replace(report="begun", snapshot=snapshot))
        elif state.report == "begun":
            yield Step("report", True, self.applied(state))

    def applied(self, state: Meeting) -> Meeting:
        """What the report does with the task as its snapshot shows it."""
        seen = state.snapshot if self.isolation == REPEATABLE_READ else state.task
        after = state._replace(report="idle", snapshot="", listed="", clear=False)
        if seen == "running" and state.listed == "ok":
            return after._replace(task="done")
        orphan = seen == "planned" and state.listed == "ok"
        return after._replace(clear=orphan)
