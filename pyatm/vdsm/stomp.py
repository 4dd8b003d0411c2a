"""STOMP 1.2 frames as VDSM reads and writes them: a strict codec without I/O, for both sides.

Unlike the STOMP text, VDSM uses escapes in every frame, CONNECT and CONNECTED included, and
answers a frame that it cannot read by closing the connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyatm.vdsm import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT_COMMANDS: Final = frozenset({"CONNECT", "SUBSCRIBE", "UNSUBSCRIBE", "SEND", "DISCONNECT"})
SERVER_COMMANDS: Final = frozenset({"CONNECTED", "MESSAGE", "RECEIPT", "ERROR"})
_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", ":": "\\c", "\\": "\\\\"}
_PLAIN: Final = {escape: plain for plain, escape in _ESCAPES.items()}
_TO_ESCAPE: Final = re.compile(r"[\n\r:\\]")
_ESCAPED: Final = re.compile(r"\\.?", re.DOTALL)
_BEATS: Final = re.compile(rb"(?:\r?\n)+")
_HEADER: Final = re.compile(rb"([^:\r\0]+):([^:\r\0]*)")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may make a decoder hold: bytes and number of headers, bytes of a body."""

    header_bytes: int = 64 * 1024
    headers: int = 64
    body_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: headers in wire order, names and values unescaped."""

    command: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def get(self, name: str) -> str | None:
        """Value of header ``name``, None without it; of a repeated header the first counts."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class HeartBeat:
    """Line ends between frames, a sign of life. A run of them is reported once."""


HEART_BEAT: Final = HeartBeat()


def encode(item: Frame | HeartBeat) -> bytes:
    """Bytes of ``item``; a body without ``content-length`` gets one as the last header.

    Raises :class:`~pyatm.vdsm.errors.FrameError` for what a strict reader would refuse.
    """
    if isinstance(item, HeartBeat):
        return b"\n"
    if item.command not in CLIENT_COMMANDS | SERVER_COMMANDS:
        raise errors.UnknownCommandError(f"not a command: {item.command!r}")
    headers, length = item.headers, item.get("content-length")
    if length is None and item.body:
        headers = (*headers, ("content-length", str(len(item.body))))
    elif length not in (None, str(len(item.body))):
        raise errors.BadContentLengthError(f"content-length {length}, {len(item.body)} bytes")
    if any(not name or "\0" in name + value for name, value in headers):
        raise errors.BadHeaderError("a header has an empty name, or a NUL in name or value")
    texts = [_TO_ESCAPE.sub(lambda m: _ESCAPES[m[0]], text) for pair in headers for text in pair]
    lines = [item.command, *map(":".join, zip(texts[::2], texts[1::2], strict=True))]
    return b"%b\n\n%b\0" % ("\n".join(lines).encode(), item.body)


class Decoder:
    """Turns bytes, split in any way, into frames and heart-beats; work is linear in the bytes.

    ``commands`` are those that this side may receive. Once a ``FrameError`` was raised every call
    raises it again: nobody can tell where the next frame would begin.
    """

    def __init__(self, commands: frozenset[str], limits: Limits | None = None) -> None:
        self._commands, self._limits = [c.encode() for c in commands], limits or Limits()
        self._buffer, self._start, self._searched = bytearray(), 0, 0
        self._command, self._headers, self._head = "", list[tuple[str, str]](), 0
        self._length: int | None = None  # of the body; None in the headers, -1: up to a NUL
        self._error: errors.FrameError | None = None

    @property
    def pending(self) -> int:
        """Bytes received of a frame that is not complete; 0 between frames."""
        return self._head + len(self._buffer) - self._start

    def feed(self, data: bytes) -> Iterator[Frame | HeartBeat]:
        """What ``data`` completes. Iterate to the end: an error is raised where it is met."""
        del self._buffer[: self._start]
        self._searched, self._start = max(self._searched - self._start, 0), 0
        self._buffer += data
        try:
            while self._error is None and (item := self._next()) is not None:
                yield item
        except errors.FrameError as error:
            self._error = error
        if self._error is not None:
            self._buffer.clear()
            self._start = self._head = 0
            raise self._error

    def _next(self) -> Frame | HeartBeat | None:
        if not self._command and (beats := _BEATS.match(self._buffer, self._start)):
            self._start = beats.end()
            return HEART_BEAT
        while self._length is None:
            end = self._search(b"\n")
            head = self._head + self._searched - self._start
            if self._command and head > self._limits.header_bytes:
                raise errors.FrameTooLargeError(f"headers over {self._limits.header_bytes} bytes")
            if not self._command or end >= 0:
                self._read_line(bytes(self._buffer[self._start : self._searched]), end >= 0)
            if end < 0:
                return None
            self._head, self._start = self._head + end + 1 - self._start, end + 1
        end = self._start + self._length if self._length >= 0 else self._search(b"\0")
        if max(self._length, self._searched - self._start) > self._limits.body_bytes:
            raise errors.FrameTooLargeError(f"body over {self._limits.body_bytes} bytes")
        if not 0 <= end < len(self._buffer):
            return None
        if self._buffer[end]:
            raise errors.BadContentLengthError(f"no NUL after content-length {self._length}")
        with memoryview(self._buffer) as view:
            frame = Frame(self._command, tuple(self._headers), bytes(view[self._start : end]))
        self._command, self._headers, self._head, self._length = "", [], 0, None
        self._start = end + 1
        return frame

    def _search(self, end: bytes) -> int:
        found = self._buffer.find(end, max(self._searched, self._start))
        self._searched = len(self._buffer) if found < 0 else found
        return found

    def _read_line(self, line: bytes, complete: bool) -> None:
        line = line.removesuffix(b"\r")
        if not self._command:
            if not any(c == line if complete else c.startswith(line) for c in self._commands):
                raise errors.UnknownCommandError(f"not a command: {line[:20]!r}")
            self._command = line.decode() if complete else ""
        elif line:
            if len(self._headers) >= self._limits.headers:
                raise errors.FrameTooLargeError(f"more than {self._limits.headers} headers")
            if (header := _HEADER.fullmatch(line)) is None:
                raise errors.BadHeaderError(f"not a header: {line[:80]!r}")
            self._headers.append((_plain(header[1]), _plain(header[2])))
        else:
            length = Frame("", tuple(self._headers)).get("content-length")
            if length is not None and not re.fullmatch("[0-9]{1,15}", length):
                raise errors.BadContentLengthError(f"not a content-length: {length[:20]!r}")
            self._length = -1 if length is None else int(length)


def _plain(part: bytes) -> str:
    try:
        return _ESCAPED.sub(lambda m: _PLAIN[m[0]], part.decode())
    except UnicodeDecodeError:
        raise errors.BadHeaderError(f"a header is not UTF-8: {part[:80]!r}") from None
    except KeyError as error:
        raise errors.BadEscapeError(f"unknown escape {error} in a header") from None
