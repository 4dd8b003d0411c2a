"""One measurement of one subject, in a process of its own: ``python -m bench.one``.

Prints one JSON object. Its processor time is the client's share of the sample.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from bench.proxy import Counts
from bench.subjects import SUBJECTS
from pyatm.bench.measure import Counter, Subject, measured


class _WireCounter(Counter):
    """The subject's own count of commands, with what the proxy has counted."""

    def __init__(self, inner: Counter, wire: Counts) -> None:
        super().__init__()
        self._inner, self._wire = inner, wire

    def read(self) -> tuple[int, int, int]:
        return self._inner.read()[0], *self._wire.read()


class _Counted:
    """A subject seen through the proxy."""

    def __init__(self, inner: Subject, wire: Counts) -> None:
        self.counter: Counter = _WireCounter(inner.counter, wire)
        self.start, self.stop, self.failed = inner.start, inner.stop, inner.failed


def main() -> None:
    """Set up or measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("--dsn", required=True, help="what the subject connects to")
    parser.add_argument("--setup", action="store_true", help="only make its tables")
    parser.add_argument("--meter-dsn", help="the server itself")
    parser.add_argument("--postmaster", type=int)
    parser.add_argument("--submitters", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--counts", type=Path, help="the proxy's counters")
    options = parser.parse_args()
    entry = SUBJECTS[options.subject]
    if options.setup:
        entry.setup(options.dsn)
        print(json.dumps({"version": entry.release}))
        return
    subject = entry.make(options.dsn)
    if options.counts is not None:
        subject = _Counted(subject, Counts(options.counts))
    sample = measured(
        subject,
        options.meter_dsn,
        options.postmaster,
        options.submitters,
        options.seconds,
        options.warm_up,
    )
    print(json.dumps(asdict(sample)))
    sys.stdout.flush()
    # Threads that a library leaves behind must not hold up the next subject.
    os._exit(0)


if __name__ == "__main__":
    main()
