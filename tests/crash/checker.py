"""Judges the history of a run: `check(evidence)` returns every violation of an invariant.

Each check says only what the evidence proves, whatever happened between two lines of it: where two
clocks or two processes are compared, the comparison is on the safe side.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.crash.evidence import Access, EntityKey, Evidence, Planned
from tests.crash.execution import VdsmTask, lives

INVARIANTS = {
    1: "succeeded only if every planned task was executed with success by VDSM",
    2: "endAction is offered to one token at a time, and its effect happens exactly once",
    3: "nothing leaves the live tables before it is ended and cleared",
    4: "no two roots hold an entity in conflicting modes, and a free entity refuses nobody",
    5: "a write with a stale epoch, lease or token changes nothing",
    6: "compensation never starts while VDSM works on the entity or may still begin to",
    7: "after the faults everything ends, and nothing remains at VDSM",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant.

    Attributes:
        invariant: its number in `INVARIANTS`.
        subject: the root, task or entity.
    """

    invariant: int
    subject: str
    text: str

    def __str__(self) -> str:
        meaning = INVARIANTS[self.invariant]
        return f"invariant {self.invariant} ({meaning}): {self.subject}: {self.text}"


def check(evidence: Evidence) -> list[Violation]:
    """Every violation, in the order of the invariants."""
    tasks = lives(evidence.executed)
    return [
        *executed(evidence, tasks),
        *one_token(evidence),
        *one_effect(evidence),
        *nothing_lost(evidence),
        *cleared_before_gone(evidence, tasks),
        *exclusion(evidence, tasks),
        *justified_refusals(evidence),
        *fenced(evidence),
        *compensation(evidence, tasks),
        *nothing_left(evidence),
    ]


def executed(evidence: Evidence, tasks: dict[str, VdsmTask]) -> Iterator[Violation]:
    """Invariant 1."""
    for root in evidence.ended.values():
        outcomes = [task.outcome for task in root.tasks]
        good = not root.aborted and all(outcome == "succeeded" for outcome in outcomes)
        if (root.outcome == "succeeded") != good:
            yield Violation(
                1, root.root, f"{root.outcome}, aborted {root.aborted}, its tasks {outcomes}"
            )
        planned = evidence.planned.get(root.root)
        if planned is not None and root.outcome == "succeeded":
            missing = {t.task_id for t in planned.tasks} - {t.task_id for t in root.tasks}
            if missing:
                yield Violation(1, root.root, f"succeeded without its planned tasks {missing}")
        for task in root.tasks:
            found = tasks.get(task.vdsm_task_id or "")
            if task.outcome == "succeeded" and (
                found is None or not (found.worked and found.success)
            ):
                yield Violation(
                    1, task.task_id, f"succeeded, but VDSM's task {task.vdsm_task_id} is {found}"
                )
            bound = None if found is None else found.correlation_id
            if bound is not None and bound != task.task_id:
                yield Violation(1, task.task_id, f"bound to VDSM's task of {bound}")


def one_token(evidence: Evidence) -> Iterator[Violation]:
    """Invariant 2: what was offered, and when."""
    tokens: dict[int, str] = {}
    by_root: defaultdict[str, list[int]] = defaultdict(list)
    for claim in evidence.claims:
        by_root[claim.root].append(claim.token)
        if tokens.setdefault(claim.token, claim.root) != claim.root:
            yield Violation(2, claim.root, f"token {claim.token} was given out twice")
        if None in claim.task_outcomes:
            yield Violation(2, claim.root, f"offered with open tasks: {claim.task_outcomes}")
        every = all(outcome == "succeeded" for outcome in claim.task_outcomes)
        if claim.outcome == "succeeded" and not every:
            yield Violation(2, claim.root, f"offered as succeeded: {claim.task_outcomes}")
    for root, given in by_root.items():
        twice = [token for token, times in Counter(given).items() if times > 1]
        if twice:
            yield Violation(2, root, f"offered twice with the same token: {twice}")
    for effect in evidence.effects:
        newer = [token for token in by_root[effect.root] if token > effect.token]
        if newer:
            yield Violation(
                2, effect.root, f"took effect with token {effect.token} although {newer} are newer"
            )


def one_effect(evidence: Evidence) -> Iterator[Violation]:
    """Invariant 2: the effect, exactly once."""
    count = Counter(effect.root for effect in evidence.effects)
    for root in evidence.ended.values():
        wanted = 0 if root.by_operator else 1
        if count[root.root] != wanted:
            yield Violation(2, root.root, f"{count[root.root]} effects instead of {wanted}")
    for effect in evidence.effects:
        ended = evidence.ended.get(effect.root)
        if effect.root not in evidence.planned:
            yield Violation(2, effect.root, "an effect of a command that was never planned")
        elif ended is not None and ended.outcome != effect.outcome:
            yield Violation(
                2, effect.root, f"its effect was {effect.outcome}, its outcome {ended.outcome}"
            )
    for root, times in count.items():
        if times > 1 and root not in evidence.ended:
            yield Violation(2, root, f"{times} effects, and it has not ended")


def nothing_lost(evidence: Evidence) -> Iterator[Violation]:
    """Invariant 3: what was planned is in the live tables or in the history, never in both."""
    for root in evidence.planned:
        live, over = root in evidence.left.live_roots, root in evidence.ended
        if live == over:
            yield Violation(3, root, "live and in the history" if live else "vanished")
    for root in evidence.ended:
        if root not in evidence.planned:
            yield Violation(3, root, "in the history, but its planning never committed")


def cleared_before_gone(evidence: Evidence, tasks: dict[str, VdsmTask]) -> Iterator[Violation]:
    """Invariant 3: VDSM had forgotten a task when its root left the live tables."""
    for root in evidence.ended.values():
        for task in root.tasks:
            if task.vdsm_task_id is None:
                continue
            if task.cleared_at is None:
                yield Violation(3, task.task_id, "in the history, never cleared")
            found = tasks.get(task.vdsm_task_id)
            # A lost one that VDSM lists again is a ghost, which is cleared when it appears.
            if found is None or task.outcome == "lost" or root.by_operator:
                continue
            if found.cleared and min(found.cleared) > root.archived_at:
                late = min(found.cleared) - root.archived_at
                yield Violation(3, task.task_id, f"VDSM cleared it {late:.3f} s after the end")


def conflicts(one: Access, other: Access) -> bool:
    """Whether two roots may not hold an entity like that."""
    return "exclusive" in (one, other)


def exclusion(evidence: Evidence, tasks: dict[str, VdsmTask]) -> Iterator[Violation]:
    """Invariant 4: from the planning transaction to the finishing one the holds stand.

    Those of a root that reverts stand until VDSM has undone its tasks.
    """
    until = {effect.root: effect.at for effect in evidence.effects}
    for root in evidence.ended.values():
        undone = [tasks[t.vdsm_task_id].reverted for t in root.tasks if t.vdsm_task_id in tasks]
        if root.root in until:
            until[root.root] = max([until[root.root], *undone])
    by_entity: defaultdict[EntityKey, list[Planned]] = defaultdict(list)
    for planned in evidence.planned.values():
        for entity in planned.holds:
            by_entity[entity].append(planned)
    for entity, holders in by_entity.items():
        holders.sort(key=lambda holder: holder.held_from)
        open_ones: list[Planned] = []
        for holder in holders:
            open_ones = [
                before
                for before in open_ones
                if until.get(before.root, float("inf")) > holder.held_from
                and not _by_operator(evidence, before.root)
            ]
            for before in open_ones:
                if conflicts(before.holds[entity], holder.holds[entity]):
                    yield Violation(
                        4, " ".join(entity), f"held by {before.root} and by {holder.root} at once"
                    )
            open_ones.append(holder)


def _by_operator(evidence: Evidence, root: str) -> bool:
    ended = evidence.ended.get(root)
    return ended is not None and ended.by_operator


def justified_refusals(evidence: Evidence) -> Iterator[Violation]:
    """Invariant 4: who is refused is told a root that held the entity then."""
    for refusal in evidence.refusals:
        wanted = ", ".join(
            f"{access} {kind} {id_}" for (kind, id_), access in refusal.wanted.items()
        )
        for root in refusal.holders:
            holder = evidence.planned.get(root)
            if holder is None:
                yield Violation(4, root, f"refused {wanted}, and was never planned")
                continue
            shared = holder.holds.keys() & refusal.wanted.keys()
            if not any(conflicts(holder.holds[e], refusal.wanted[e]) for e in shared):
                yield Violation(4, root, f"refused {wanted}, and does not hold it like that")
            if evidence.freed.get(root, float("inf")) < refusal.began:
                yield Violation(4, root, f"refused {wanted} after it had ended")


def fenced(evidence: Evidence) -> Iterator[Violation]:
    """Invariant 5."""
    for attempt in evidence.stale:
        if not attempt.answer.startswith("AT2"):
            yield Violation(5, attempt.operation, f"stale, and answered {attempt.answer}")
    by_engine: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for start in evidence.starts:
        by_engine[start.engine].append((start.at, start.epoch))
    for starts in by_engine.values():
        starts.sort()
        for (_, older), (_, newer) in pairwise(starts):
            # Two starts may commit in one order and be noted in the other, not with equal epochs.
            if older == newer:
                yield Violation(5, str(older), "two incarnations have the same epoch")
    for write in evidence.writes:
        newer = [
            epoch
            for at, epoch in by_engine[write.engine]
            if epoch > write.epoch and at < write.began
        ]
        if newer:
            yield Violation(
                5, write.operation, f"done with epoch {write.epoch} after {min(newer)} had begun"
            )
    for root in evidence.ended.values():
        yield from _late_binds(evidence, root.root)
    yield from _late_effects(evidence)


def _late_binds(evidence: Evidence, root: str) -> Iterator[Violation]:
    planned = evidence.planned.get(root)
    if planned is None:
        return
    fences = [
        start.at
        for start in evidence.starts
        if start.engine == planned.engine and start.epoch > planned.epoch
    ]
    if not fences:
        return
    for task in evidence.ended[root].tasks:
        if task.bound_at is not None and task.bound_at > min(fences):
            yield Violation(5, task.task_id, "bound by an incarnation that was fenced")


def _late_effects(evidence: Evidence) -> Iterator[Violation]:
    """A fenced incarnation's claims are taken back."""
    epochs = {(claim.root, claim.token): claim.epoch for claim in evidence.claims}
    for effect in evidence.effects:
        epoch = epochs.get((effect.root, effect.token), 0)
        planned = evidence.planned.get(effect.root)
        if not epoch or planned is None:
            continue
        for start in evidence.starts:
            if start.engine == planned.engine and start.epoch > epoch and start.at < effect.at:
                yield Violation(5, effect.root, f"took effect with a claim of epoch {epoch}")
                break


def compensation(evidence: Evidence, tasks: dict[str, VdsmTask]) -> Iterator[Violation]:
    """Invariant 6."""
    by_correlation: defaultdict[str, list[VdsmTask]] = defaultdict(list)
    for task in tasks.values():
        if task.correlation_id is not None:
            by_correlation[task.correlation_id].append(task)
    by_entity: defaultdict[EntityKey, list[tuple[str, str]]] = defaultdict(list)
    for planned in evidence.planned.values():
        for task in planned.tasks:
            for entity in task.entities:
                by_entity[entity].append((planned.root, task.task_id))
    said = [(answer.entity, answer.began, answer.at, "") for answer in evidence.compensable]
    for effect in evidence.effects:
        said += [(entity, effect.at, effect.at, effect.root) for entity in effect.compensated]
    for entity, began, at, ending in said:
        for root, task_id in by_entity[entity]:
            sent = evidence.sent.get(task_id, float("inf"))
            for task in by_correlation[task_id]:
                # What was not yet announced then needs no compensation; a command that is at its
                # end announces nothing any more.
                counts = root == ending or min(sent, task.born) < began
                if counts and task.until > at:
                    yield Violation(
                        6,
                        " ".join(entity),
                        f"compensation was allowed at {at:.3f}, and VDSM's task "
                        f"{task.vdsm_task_id} worked from {task.born:.3f} to {task.until:.3f}",
                    )


def nothing_left(evidence: Evidence) -> Iterator[Violation]:
    """Invariant 7."""
    left = evidence.left
    for root in left.live_roots - left.named:
        yield Violation(7, root, "has not ended, and atm.stuck does not name it")
    if not left.live_roots:
        for row in left.live:
            yield Violation(7, row, "left in a live view")
        for task in left.at_vdsm:
            yield Violation(7, task, "left at VDSM")
