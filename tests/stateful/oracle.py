"""What the database should hold, written down in the simplest way: objects, loops, no SQL.

The oracle knows no clock: `tick` numbers the events in their order, which is all that the rules
ask for. Time-outs are settings that the machine has set to "has passed" or to "has not".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .facts import ANNOUNCED, UNSENT, Hold, RefusedError, Root, Task, Watch

if TYPE_CHECKING:
    from .facts import Entity, Pool, Row, Settings, Unknown


@dataclass(slots=True)
class Oracle:
    """All facts, and the functions of the engine, the operator and endAction."""

    settings: Settings
    pools: dict[str, Pool]
    epochs: dict[str, int] = field(default_factory=dict)
    roots: dict[str, Root] = field(default_factory=dict)
    unknowns: dict[str, Unknown] = field(default_factory=dict)
    history: dict[str, Root] = field(default_factory=dict)
    known: dict[str, int] = field(default_factory=dict)
    orphans_over: dict[str, int] = field(default_factory=dict)
    now: int = 0

    def tick(self) -> int:
        self.now += 1
        return self.now

    def tasks(self) -> list[Task]:
        return [task for root in self.roots.values() for task in root.tasks]

    def task(self, task_id: str) -> Task:
        for task in self.tasks():
            if task.id == task_id:
                return task
        raise RefusedError("AT008")

    def root_of(self, command: str) -> Root:
        for root in self.roots.values():
            if command in root.parents:
                return root
        raise RefusedError("AT008")

    # The engine.

    def start_engine(self, name: str, epoch: int) -> None:
        again = name in self.epochs
        self.epochs[name] = epoch
        if not again:
            return
        for root in [root for root in self.roots.values() if root.engine == name]:
            if root.state == "ending":
                root.state, root.token, root.due = "ready", None, True
            if root.state == "open":
                root.state, root.aborted = "sealed", True
            for task in root.tasks:
                if task.state in ANNOUNCED:
                    task.state, task.epoch = "in_doubt", None
                    task.doubt = task.doubt or Watch(self.tick())
            self.close_unbound(root, (UNSENT,), "not_submitted")
            self.count(root)

    def check_epoch(self, epoch: int) -> str:
        for name, current in self.epochs.items():
            if current == epoch:
                return name
        raise RefusedError("AT201")

    def own_task(self, epoch: int, task_id: str) -> Task:
        name = self.check_epoch(epoch)
        task = self.task(task_id)
        if task.root.engine != name:
            raise RefusedError("AT201")
        return task

    def own_root(self, epoch: int, command: str) -> Root:
        name = self.check_epoch(epoch)
        root = self.root_of(command)
        if root.engine != name:
            raise RefusedError("AT201")
        return root

    def plan(self, epoch: int, document: Row) -> None:
        engine = self.check_epoch(epoch)
        command = document["command_id"]
        for root in self.roots.values():
            if command in root.parents:
                if root.document != document:
                    raise RefusedError("AT101")
                return
        if command in self.history:
            raise RefusedError("AT102")
        root = Root(command, engine, document, "sealed" if document.get("seal", True) else "open")
        self.grow(root, document, None, epoch)
        self.admit(root)
        self.take_tasks(root.tasks)
        self.roots[command] = root
        self.count(root)

    def add_tasks(self, epoch: int, command: str, addition: Row) -> None:
        root = self.own_root(epoch, command)
        if any(at == command and given == addition for at, given in root.additions):
            return
        if root.state != "open":
            raise RefusedError("AT103")
        trial = Root(root.id, root.engine, root.document, root.state, dict(root.parents))
        trial.holds = {
            entity: Hold(hold.exclusive, set(hold.commands), set(hold.tasks))
            for entity, hold in root.holds.items()
        }
        self.grow_below(trial, addition, command, epoch)
        self.admit(trial)
        self.take_tasks(trial.tasks)
        root.parents, root.holds = trial.parents, trial.holds
        for task in trial.tasks:
            task.root = root
        root.tasks += trial.tasks
        root.additions.append((command, addition))

    def grow(self, root: Root, document: Row, parent: str | None, epoch: int) -> None:
        command = document["command_id"]
        root.parents[command] = parent
        for entity in document.get("entities", []):
            self.hold(root, entity).commands.add(command)
        self.grow_below(root, document, command, epoch)

    def grow_below(self, root: Root, document: Row, command: str, epoch: int) -> None:
        for given in document.get("tasks", []):
            task = Task(given["task_id"], root, command, given["storage_pool_id"], epoch)
            if given.get("submit", False):
                task.state = "submitting"
            for entity in given.get("entities", []):
                self.hold(root, entity).tasks.add(task.id)
            root.tasks.append(task)
        for child in document.get("children", []):
            self.grow(root, child, command, epoch)

    def hold(self, root: Root, entity: Row) -> Hold:
        hold = root.holds.setdefault((entity["type"], entity["id"]), Hold())
        hold.exclusive |= entity.get("access", "shared") == "exclusive"
        return hold

    def holders(self, entity: Entity) -> list[Root]:
        return [root for root in self.roots.values() if root.live and entity in root.holds]

    def admit(self, wanted: Root) -> None:
        for entity, hold in wanted.holds.items():
            for root in self.holders(entity):
                if root.id != wanted.id and (hold.exclusive or root.holds[entity].exclusive):
                    raise RefusedError("AT301")

    def take_tasks(self, tasks: list[Task]) -> None:
        if any(self.pools[task.pool].drained for task in tasks):
            raise RefusedError("AT109")

    def seal(self, epoch: int, command: str) -> None:
        root = self.own_root(epoch, command)
        if root.state == "open":
            root.state = "sealed"
            self.count(root)

    def abort(self, epoch: int, command: str, stop: bool) -> None:
        root = self.own_root(epoch, command)
        if root.state not in ("open", "sealed"):
            raise RefusedError("AT107")
        self.abort_root(root, stop)

    def abort_root(self, root: Root, stop: bool) -> None:
        root.state, root.aborted, root.stop = "sealed", True, root.stop or stop
        self.close_unbound(root, (UNSENT,), "not_submitted")
        self.count(root)

    def submit(self, epoch: int, task_ids: list[str]) -> list[tuple[str, str]]:
        tasks = [self.own_task(epoch, task_id) for task_id in task_ids]
        for task in tasks:
            if task.state == UNSENT:
                task.state = "submitting"
        return [(task.id, task.state) for task in tasks]

    def bind(self, epoch: int, task_id: str, vdsm: str, following: list[str]) -> None:
        if any(task.vdsm == vdsm and task.id != task_id for task in self.tasks()):
            raise RefusedError("AT105")
        task = self.own_task(epoch, task_id)
        if task.state in ANNOUNCED and task.epoch == epoch:
            task.state, task.vdsm, task.bound, task.doubt = "running", vdsm, self.tick(), None
        elif task.vdsm != vdsm:
            raise RefusedError("AT104")
        for other in self.tasks():
            if other.id in following and other.state == UNSENT and other.epoch == epoch:
                other.state = "submitting"

    def fail(self, epoch: int, task_id: str, reason: str) -> None:
        task = self.own_task(epoch, task_id)
        if task.state in ANNOUNCED and task.epoch == epoch:
            task.message = reason
            self.close(task, "failed", clear=True)
            self.count(task.root)
        elif not (task.state == "done" and task.outcome == "failed" and task.vdsm is None):
            raise RefusedError("AT104")

    def doubt(self, epoch: int, task_id: str) -> None:
        task = self.own_task(epoch, task_id)
        if task.state == "submitting" and task.epoch == epoch:
            task.state, task.doubt = "in_doubt", Watch(self.tick())
        elif task.state != "in_doubt":
            raise RefusedError("AT104")

    # What ends tasks and roots.

    def close(self, task: Task, outcome: str, *, clear: bool) -> None:
        task.state, task.outcome = "done", outcome
        if clear:
            task.cleared, task.epoch, task.doubt = self.tick(), None, None

    def close_unbound(self, root: Root, states: tuple[str, ...], outcome: str) -> None:
        for task in root.tasks:
            if task.state in states:
                self.close(task, outcome, clear=True)

    def count(self, root: Root) -> None:
        """A sealed root without open tasks is ready, and its outcome is decided."""
        if root.state == "sealed" and root.open_tasks == 0:
            good = not root.aborted and all(task.outcome == "succeeded" for task in root.tasks)
            root.state, root.outcome, root.due = "ready", "succeeded" if good else "failed", True

    def end(self, root: Root) -> None:
        uncleared = [task for task in root.tasks if task.cleared is None]
        root.state, root.token, root.due = "ended", None, False
        root.released = any(not task.finished for task in uncleared)
        self.archive_when_cleared(root)

    def archive_when_cleared(self, root: Root) -> None:
        if root.state != "ended" or any(task.cleared is None for task in root.tasks):
            return
        for unknown in self.unknowns.values():
            if any(task.root is root for task in unknown.live_suspects()):
                unknown.suspected = True
            unknown.suspects = [task for task in unknown.suspects if task.root is not root]
        del self.roots[root.id]
        self.history[root.id] = root
        at = self.tick()
        self.known.update({task.vdsm: at for task in root.tasks if task.vdsm})

    def end_reverted(self, root: Root) -> None:
        if root.state == "reverting" and not any(task.to_revert for task in root.tasks):
            self.end(root)

    # endAction.

    def claimable(self, epoch: int) -> list[Root]:
        name = self.check_epoch(epoch)
        return [
            root
            for root in self.roots.values()
            if root.engine == name and root.state in ("ready", "ending") and root.due
        ]

    def claim(self, epoch: int, tokens: dict[str, int], short: bool) -> dict[str, int]:
        """Returns the attempts by root; `tokens` are those that the database gave."""
        given: dict[str, int] = {}
        for root in self.claimable(epoch):
            if root.attempt >= self.settings.attempts:
                root.state, root.token, root.due = "end_failed", None, False
                continue
            root.attempt += 1
            root.state, root.token, root.due = "ending", tokens.get(root.id), short
            given[root.id] = root.attempt
        return given

    def claimed(self, token: int) -> Root:
        for root in self.roots.values():
            if root.token == token:
                return root
        raise RefusedError("AT203")

    def extend(self, token: int, short: bool) -> None:
        self.claimed(token).due = short

    def finish(self, token: int, result: str, later: bool, disposition: str) -> str:
        root = self.claimed(token)
        root.token = None
        if result == "done":
            if disposition == "revert":
                for task in root.tasks:
                    task.to_revert = task.outcome == "succeeded" and task.cleared is None
            root.state, root.due = "reverting", False
            self.end_reverted(root)
        elif result == "postpone":
            root.attempt -= 1
            root.state, root.due = "ready", not later
        elif result == "give_up" or root.attempt >= self.settings.attempts:
            root.state, root.due = "end_failed", False
        else:
            root.state, root.due = "ready", not later
        return root.state

    # The operator.

    def cancel(self, command: str) -> None:
        root = self.root_of(command)
        if root.state == "end_failed":
            self.end(root)
        elif root.state in ("open", "sealed"):
            self.abort_root(root, True)
        else:
            raise RefusedError("AT107")

    def resolve_task(self, task_id: str, outcome: str) -> None:
        task = self.task(task_id)
        if task.state not in ("in_doubt", "running"):
            raise RefusedError("AT104")
        self.close(task, outcome, clear=False)
        task.epoch = None
        self.count(task.root)

    def retry_end_action(self, command: str) -> None:
        root = self.root_of(command)
        if root.state != "end_failed" and not (root.state == "ready" and not root.due):
            raise RefusedError("AT107")
        root.state, root.attempt, root.due = "ready", 0, True

    def resolve_orphan(self, vdsm: str) -> None:
        unknown = self.unknowns.get(vdsm)
        if unknown is None:
            raise RefusedError("AT008")
        if any(task.may_bind for task in unknown.live_suspects()):
            raise RefusedError("AT104")
        unknown.resolved = True

    def remove_pool(self, name: str) -> None:
        unknowns = [u for u in self.unknowns.values() if u.pool == name and not u.resolved]
        if unknowns or any(task.pool == name for task in self.tasks()):
            raise RefusedError("AT108")
        pool = self.pools[name]
        pool.poller = pool.token = None
        pool.short_lease = pool.drained = False

    def drain_pool(self, name: str, drained: bool) -> None:
        self.pools[name].drained = drained

    # Questions.

    def can_compensate(self, entity: Entity) -> bool:
        return not any(
            self.may_work(task)
            for root in self.roots.values()
            if root.live or root.released
            for task in root.touching(entity)
        )

    def may_work(self, task: Task) -> bool:
        return (
            task.state in ANNOUNCED
            or (task.vdsm is not None and task.cleared is None and not task.finished)
            or task.doubt is not None
            or task.to_revert
            or any(
                task in unknown.live_suspects()
                and unknown.said[0] != "finished"
                and not unknown.resolved
                for unknown in self.unknowns.values()
            )
        )
