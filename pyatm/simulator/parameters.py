"""Parameters of verbs: their names in schema order, and the errors for missing ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pyatm.simulator import errors

H = TypeVar("H")


@dataclass(frozen=True, slots=True)
class Verb(Generic[H]):
    """A verb's parameters, as (name on the wire, name in error texts), and what it does.

    Attributes:
        identity: parameters that name the object; all required.
        required: further required parameters.
        optional: names of the others.
        order: names of all in schema order, for parameters given as a list.
    """

    handler: H
    identity: tuple[tuple[str, str], ...] = ()
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[str, ...]:
        return (*(wire for wire, _ in self.identity), *self.required, *self.optional)


def bind(method: str, verb: Verb[Any], params: object) -> dict[str, Any]:
    """Parameters by name; raises what VDSM answers to missing and surplus ones."""
    if isinstance(params, list):
        given: list[Any] = params  # pyright: ignore[reportUnknownVariableType]
        if len(given) > len(verb.order):
            raise errors.internal_error("list index out of range")
        named: dict[str, Any] = dict(zip(verb.order, given, strict=False))
    else:
        named = dict(params) if isinstance(params, Mapping) else {}  # pyright: ignore[reportUnknownArgumentType]
    missing = [name for wire, name in verb.identity if wire not in named]
    if missing:
        raise errors.internal_error(_missing(f"{method.partition('.')[0]}.__init__", missing))
    missing = [name for name in verb.required if name not in named]
    if missing:
        raise errors.internal_error(_missing(method, missing))
    return named


def _missing(function: str, names: list[str]) -> str:
    quoted = [repr(name) for name in names]
    if len(quoted) > 2:
        text = ", ".join(quoted[:-1]) + f", and {quoted[-1]}"
    else:
        text = " and ".join(quoted)
    plural = "s" if len(names) > 1 else ""
    return f"{function}() missing {len(names)} required positional argument{plural}: {text}"
