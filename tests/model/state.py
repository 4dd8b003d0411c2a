"""The state of the world, as compact hashable values.

Everything that belongs to one task is in one slice (`Task`): its row in the database, what its
engine remembers, what VDSM has, what each poller has in hand about it. Two tasks of a root are
then interchangeable, and so are the two pollers: `Packing` sorts them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

NOBODY, CURRENT, OLD, DEAD = "", "current", "old", "dead"


class View(NamedTuple):
    """What one poller has in hand about one VDSM task."""

    bound: bool = False  # the task was bound when the poll began
    settled: bool = False  # in_doubt_settle had passed when the poll began
    listed: str = ""  # what the listing says: "", run, ok, back
    todo: str = ""  # stop, revert or clear, as the database asked
    did: str = ""  # VDSM's answer to it: yes, unknown (401)


class Task(NamedTuple):
    """One placeholder and the one VDSM task it can have; root -1 is none of ours."""

    root: int
    # The row.
    state: str = "unplanned"  # planned submitting in_doubt running done history
    outcome: str = ""
    bound: bool = False
    settled: bool = False  # in_doubt_settle has passed
    quiet: int = 0  # polls of one lver begun after that
    absent: int = 0  # polls of one lver without it
    seen: str = ""  # what VDSM last said: run, ok, back, or absent once confirmed
    resolved: bool = False  # an operator ended the wait
    reverted: bool = False
    cleared: bool = False
    unreplicated: bool = False  # its announcement was committed with a warning only
    # The row of the VDSM task while it is unknown: run, fin, past (over, its id remembered).
    unknown: str = ""
    unknown_absent: int = 0
    suspects: int = 0  # bit mask of tasks
    # The memory of its engine: told (announced), late (window over), sent, deaf (the answer will
    # never come), no (refused).
    hand: str = ""
    # VDSM: a create verb that waits for a lock, the job, whether the list lacks it for now.
    create: bool = False
    job: str = ""  # run, ok, undo (rolling back), back, gone, ghost
    hidden: bool = False
    # History, for the invariants only.
    executed: bool = False
    wiped: bool = False  # a poller's clear removed it
    views: tuple[View, View] = (View(), View())


class Root(NamedTuple):
    """One root command."""

    state: str = "unplanned"  # live ready ending reverting ended history
    outcome: str = ""
    aborted: bool = False
    owner: str = NOBODY  # the process that planned it: current, old (stopped for a while), dead
    fenced: bool = False  # a newer epoch has recovered it
    disposition: str = ""
    holder: str = NOBODY  # who has the valid claim token
    stale_current: bool = False  # a thread of the current engine still believes in an older token
    stale_old: bool = False
    marked: bool = False  # only for the flaw that applies the effect before the finish
    # History.
    effects: int = 0
    gap: bool = False  # some placeholder was not bound when its engine was fenced


class Poller(NamedTuple):
    """One poller process."""

    lease: str = ""  # held, stale (it does not know yet)
    poll: str = ""  # begun, listed
    lver: int = 0  # as read before the listing
    aged: bool = False  # absence_time of this lver had passed when the poll began
    outdated: bool = False  # a report of a later poll has been applied


class Vdsm(NamedTuple):
    """The storage pool's SPM."""

    up: bool = True
    lver: int = 1
    loaded: bool = True


class Faults(NamedTuple):
    """How many of each may still happen."""

    crash: int = 0  # the engine is killed
    freeze: int = 0  # the engine is stopped, replaced, and goes on later
    answer: int = 0  # an answer is lost
    failover: int = 0
    ghost: int = 0  # the failover brings cleared tasks back
    lease: int = 0  # a poller loses its lease without knowing
    poller: int = 0  # a poller is killed
    claim: int = 0  # an endAction outlives its lease
    foreign: int = 0  # another tool clears a task
    cancel: int = 0
    resolve: int = 0
    commit: int = 0  # an announcement is lost with the primary


class World(NamedTuple):
    """All of it."""

    tasks: tuple[Task, ...]
    roots: tuple[Root, ...]
    pollers: tuple[Poller, ...]
    vdsm: Vdsm
    faults: Faults
    engine: bool = True  # the engine of the current epoch runs
    old: bool = False  # an engine of an older epoch is stopped, not dead
    lver: int = 1  # of the last report applied
    aged: bool = False  # absence_time has passed since the first report of this lver

    def task(self, index: int, **changes: object) -> World:
        """The world with one task changed."""
        new = self.tasks[index]._replace(**changes)
        return self._replace(tasks=(*self.tasks[:index], new, *self.tasks[index + 1 :]))

    def root(self, index: int, **changes: object) -> World:
        """The world with one root changed."""
        new = self.roots[index]._replace(**changes)
        return self._replace(roots=(*self.roots[:index], new, *self.roots[index + 1 :]))

    def poller(self, index: int, **changes: object) -> World:
        """The world with one poller changed."""
        new = self.pollers[index]._replace(**changes)
        return self._replace(pollers=(*self.pollers[:index], new, *self.pollers[index + 1 :]))

    def spend(self, fault: str) -> World:
        """The world with one fault less to come."""
        return self._replace(
            faults=self.faults._replace(**{fault: getattr(self.faults, fault) - 1})
        )

    def view(self, poller: int, index: int, **changes: object) -> World:
        """The world with one poller's view of one task changed."""
        views = list(self.tasks[index].views)
        views[poller] = views[poller]._replace(**changes)
        return self.task(index, views=tuple(views))


class Packing:
    """Worlds as tuples of small numbers, one number for each distinct slice.

    Slices repeat all the time, so a packed world is small and quick to hash; the numbers also
    give the order by which interchangeable tasks and pollers are sorted (the symmetry reduction:
    one representative of all worlds that differ only in the names of tasks and pollers).
    """

    def __init__(self) -> None:
        self.numbers: dict[tuple[object, ...], int] = {}
        self.slices: list[tuple[object, ...]] = []

    def number(self, piece: tuple[object, ...]) -> int:
        """The number of a slice."""
        found = self.numbers.get(piece)
        if found is None:
            found = self.numbers[piece] = len(self.slices)
            self.slices.append(piece)
        return found

    def pack(self, world: World, *, symmetry: bool) -> tuple[int, ...]:
        """Tasks, roots, pollers, and the rest as one slice."""
        tasks = world.tasks
        pollers = world.pollers
        number = self.number
        if symmetry and len(pollers) == 2:
            left = (pollers[0], [task.views[0] for task in tasks])
            right = (pollers[1], [task.views[1] for task in tasks])
            if right < left:
                pollers = (pollers[1], pollers[0])
                tasks = tuple(task._replace(views=(task.views[1], task.views[0])) for task in tasks)
        codes = [number(task) for task in tasks]
        if symmetry and len(codes) > 1:
            order = sorted(range(len(codes)), key=lambda index: (tasks[index].root, codes[index]))
            if any(task.suspects for task in tasks):
                place = {old: new for new, old in enumerate(order)}
                codes = [
                    number(tasks[old]._replace(suspects=moved(tasks[old].suspects, place)))
                    for old in order
                ]
            else:
                codes = [codes[old] for old in order]
        rest = (world.vdsm, world.faults, world.engine, world.old, world.lver, world.aged)
        codes += [number(world.roots), number(pollers), number(rest)]
        return tuple(codes)

    def unpack(self, codes: tuple[int, ...]) -> World:
        """The world again."""
        slices: list[Any] = self.slices
        tasks = tuple(slices[code] for code in codes[:-3])
        return World(tasks, slices[codes[-3]], slices[codes[-2]], *slices[codes[-1]])


def moved(mask: int, place: dict[int, int]) -> int:
    """A bit mask of tasks after the tasks were renamed."""
    return sum(1 << new for old, new in place.items() if mask >> old & 1)
