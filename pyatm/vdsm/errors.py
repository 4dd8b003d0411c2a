"""Errors of the VDSM client, named for what the caller can do about them."""

from __future__ import annotations


class VdsmError(Exception):
    """Base of everything that :mod:`pyatm.vdsm` raises."""


class FrameError(VdsmError, ValueError):
    """VDSM would not accept these bytes as a frame; the connection is of no use any more."""


class UnknownCommandError(FrameError):
    """The first line is not a command that this side may receive."""


class BadHeaderError(FrameError):
    """A header without colon or name, with a raw colon, CR or NUL, or not in UTF-8."""


class BadEscapeError(FrameError):
    r"""A backslash that is not followed by ``n``, ``r``, ``c`` or a backslash."""


class BadContentLengthError(FrameError):
    """``content-length`` is not a decimal number, or no NUL follows that many bytes."""


class FrameTooLargeError(FrameError):
    """Headers or body exceed the limits of the decoder."""
