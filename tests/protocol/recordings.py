"""Reads recorded VDSM conversations (the format is described in transcripts/README.md)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(os.environ.get("PYATM_TRANSCRIPTS") or Path(__file__).parent / "transcripts")


@dataclass(frozen=True, slots=True)
class Event:
    """One line: ``kind`` is client, server, close-by-server, close-by-client or control."""

    line: int
    t: float
    conn: int
    kind: str
    data: bytes
    note: str


@dataclass(frozen=True, slots=True)
class Recording:
    """One conversation, events in the order in which the client saw them."""

    scenario: str
    what: str
    events: tuple[Event, ...]

    @property
    def connections(self) -> list[int]:
        """Numbers of the TCP connections, refused ones included."""
        return sorted({event.conn for event in self.events if event.conn})

    def of(self, conn: int, *kinds: str) -> list[Event]:
        """The events of one connection, of the given kinds or of all."""
        return [e for e in self.events if e.conn == conn and (not kinds or e.kind in kinds)]


def load(path: Path) -> Recording:
    """Read one file."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    events = tuple(
        Event(
            line=number,
            t=float(line["t"]),
            conn=int(line["conn"]),
            kind=line["dir"],
            data=line.get("data", "").encode(),
            note=line.get("note", ""),
        )
        for number, line in enumerate(lines[1:], start=2)
    )
    return Recording(lines[0]["scenario"], lines[0].get("what", ""), events)


def all_recordings() -> list[Recording]:
    """Every conversation of the folder."""
    found = [load(path) for path in sorted(FOLDER.glob("*.jsonl"))]
    if not found:
        raise FileNotFoundError(f"no *.jsonl in {FOLDER} (set PYATM_TRANSCRIPTS to such a folder)")
    return found
