"""Outputs in documents: compared without their times and widths, and written anew."""

import re
from typing import Final

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d(:?\d\d)?)?")
_AGE: Final = re.compile(
    r"-?((\d+ (years?|mons?|days?) ?)+(-?\d\d:\d\d:\d\d(\.\d+)?)?|\d\d+:\d\d:\d\d(\.\d+)?)"
)
_RULE: Final = re.compile(r"-{2,}(\+-+)*|-\[ RECORD (\d+) \][-+]*")
_SPACE: Final = re.compile(r"[ \t]+")


def normal(output: str) -> str:
    """The output with times and ages as words, without what depends on the width of columns."""
    lines: list[str] = []
    for line in output.strip("\n").splitlines():
        text = _AGE.sub("<age>", _TIME.sub("<time>", line))
        lines.append(_SPACE.sub(" ", _RULE.sub(r"--\2", text)).strip())
    return "\n".join(lines)


def alike(one: str, other: str) -> bool:
    """Whether they say the same."""
    return normal(one) == normal(other)


def printable(output: str) -> str:
    """As it goes into a document: no trailing spaces, no empty lines around it."""
    return "\n".join(line.rstrip() for line in output.strip("\n").splitlines()) + "\n"
