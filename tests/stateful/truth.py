"""What really happens: VDSM, the creates on their way to it, and the engines that send them.

Nobody in the database sees this. The rules of the game are those that DESIGN.md assumes: once the
settle time has passed a create is either born or never will be, an engine sends only within its
window, and an SPM has loaded its old tasks before absence_polls polls and absence_time are over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .facts import Said
    from .listings import Answer

SUCCESS: Said = ("finished", "success", 0, "1 jobs completed successfully")
FAILURE: Said = ("finished", "cleanSuccess", 261, "value=copy failed abortedcode=261")
STOPPED: Said = ("finished", "cleanSuccess", 411, "value=stopped abortedcode=411")
REVERTED: Said = ("finished", "cleanSuccess", 0, "1 jobs completed successfully")
RUNNING: Said = ("running", "", 0, "running job 1 of 1")


@dataclass(slots=True, eq=False)
class Create:
    """One create of one task, by one engine process."""

    task: str
    pool: str
    epoch: int
    state: str = "announced"  # -> sent -> born | refused | never
    vdsm: str | None = None
    answered: bool = False

    @property
    def may_come(self) -> bool:
        return self.state in ("announced", "sent")


@dataclass(slots=True, eq=False)
class Job:
    """A task of VDSM."""

    id: str
    pool: str
    said: Said = RUNNING
    hidden: bool = False
    stopping: bool = False
    origin: Create | None = None

    @property
    def works(self) -> bool:
        return self.said[0] != "finished"


@dataclass(slots=True)
class Truth:
    """All creates and jobs, by pool and id."""

    creates: list[Create] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    executed: dict[str, Said] = field(default_factory=dict)  # by the planned task's id
    forgotten: list[Job] = field(default_factory=list)
    lver: dict[str, int] = field(default_factory=dict)
    incomplete: dict[str, int] = field(default_factory=dict)  # listings taken while loading
    ids: int = 0

    def fresh_id(self) -> str:
        self.ids += 1
        return f"00000000-0000-4000-8000-{self.ids:012x}"

    def create_of(self, task: str) -> Create | None:
        return next((create for create in self.creates if create.task == task), None)

    def born(self, create: Create) -> None:
        create.state, create.vdsm = "born", self.fresh_id()
        self.jobs[create.vdsm] = Job(create.vdsm, create.pool, origin=create)

    def end_job(self, job: Job, said: Said) -> None:
        if job.works:
            job.said = STOPPED if job.stopping else said
            if job.origin:
                self.executed[job.origin.task] = job.said

    def load(self, pool: str) -> None:
        for job in self.jobs.values():
            if job.pool == pool:
                job.hidden = False

    def is_loading(self, pool: str) -> bool:
        return any(job.hidden for job in self.jobs.values() if job.pool == pool)

    def failover(self, pool: str, *, ghosts: bool, hide: bool, lose: bool) -> None:
        """Another SPM takes the role, before it has loaded the tasks that were left."""
        self.lver[pool] += 1
        self.incomplete[pool] = 0
        here = [job for job in self.jobs.values() if job.pool == pool]
        if lose and here:
            del self.jobs[here[0].id]
        for job in here:
            job.hidden = hide
        if ghosts:
            for job in [job for job in self.forgotten if job.pool == pool]:
                self.forgotten.remove(job)
                self.jobs.setdefault(job.id, job)

    def listing(self, pool: str) -> dict[str, Said]:
        if self.is_loading(pool):
            self.incomplete[pool] += 1
        return {
            job.id: job.said for job in self.jobs.values() if job.pool == pool and not job.hidden
        }

    def act(self, answer: Answer) -> None:
        """Does one chore; VDSM's answer is written into `answer`."""
        job = self.jobs.get(answer.vdsm)
        answer.ok, answer.code = False, 401
        if job is None or job.hidden:
            return
        if answer.action == "stop":
            answer.ok, answer.code = not job.stopping, 411 if job.stopping else 0
            job.stopping = job.works
        elif answer.action == "revert":
            answer.ok = job.said == SUCCESS
            answer.code = 0 if answer.ok else 403 if job.works else 441
            if answer.ok:
                job.said = REVERTED
        elif job.works:
            answer.code = 410
        else:
            answer.ok, answer.code = True, 0
            del self.jobs[job.id]
            self.forgotten.append(job)
