"""Print what the search finds: `python -m tests.model`, `--large` for the long run."""

from __future__ import annotations

import argparse
import sys

from .catalogue import LARGE, SECOND_LINES, WIDE, broken_models, right_models
from .lifecycle import Lifecycle
from .search import Verdict, explore, wander


def main() -> int:
    """Run everything and say whether it came out as it must."""
    arguments = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    arguments.add_argument("--large", action="store_true", help="also the large worlds")
    arguments.add_argument("--walk", type=float, default=5.0, help="seconds of random walks")
    arguments.add_argument("--seed", type=int, default=1, help="of the random walks")
    chosen = arguments.parse_args()
    good = True
    print(f"{'model':44} {'states':>9} {'depth':>5} {'seconds':>7}  verdict")
    models = right_models()
    if chosen.large:
        models += [Lifecycle(world) for world in LARGE]
    for model in models:
        verdict = explore(model)
        good = good and verdict.holds and verdict.complete
        line(verdict)
    walked = wander(Lifecycle(WIDE), seed=chosen.seed, seconds=chosen.walk)
    walked.model += f" (walks, seed {chosen.seed})"
    good = good and walked.holds
    line(walked)
    print("\nEach rule taken away: the shortest counterexample\n")
    for broken in broken_models():
        verdict = explore(broken.model, symmetry=False)
        good = good and not verdict.holds
        print(f"{broken.flaw}: {broken.meaning}")
        print(f"    {verdict.states} states, {len(verdict.trace)} steps: {verdict.verdict}")
        print(f"    {' > '.join(verdict.trace)}")
    print("\nSecond lines of defence (no harm alone)\n")
    for flaw, behind in SECOND_LINES.items():
        print(f"{flaw}: {behind}")
    return 0 if good else 1


def line(verdict: Verdict) -> None:
    """One row of the table, and the trace of a complaint."""
    print(
        f"{verdict.model:44} {verdict.states:9} {verdict.depth:5} {verdict.seconds:7.1f}"
        f"  {verdict.verdict}",
        flush=True,
    )
    if verdict.trace:
        shown = verdict.trace[:120]
        more = len(verdict.trace) - len(shown)
        print("    " + " > ".join(shown) + (f" > ({more} more)" if more else ""))


if __name__ == "__main__":
    sys.exit(main())
