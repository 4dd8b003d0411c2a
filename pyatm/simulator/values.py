"""Arguments of control operations: read with types, refused with the name of the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Mapping


class BadArgumentError(ValueError):
    """A field of a control operation is missing, of the wrong type, or unknown."""


class Arguments:
    """The fields of one JSON object; each is read once, :meth:`finish` refuses the rest.

    Args:
        fields: the object.
        where: its name in error messages.
    """

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self._fields = dict(fields)
        self._known = list(fields)
        self._where = where

    def has(self, name: str) -> bool:
        return name in self._fields

    def finish(self) -> None:
        """Raise when a field was given that nobody read."""
        if self._fields:
            names = ", ".join(sorted(self._fields))
            raise BadArgumentError(f"{self._where}: unknown field {names}; leave it out")

    def text(self, name: str) -> str:
        value = self.optional_text(name)
        if value is None:
            raise BadArgumentError(f"{self._where}: field {name} is required, give a text")
        return value

    def optional_text(self, name: str) -> str | None:
        value = self._fields.pop(name, None)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "a text", value)
        return value

    def optional_int(self, name: str) -> int | None:
        value = self._fields.pop(name, None)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self._wrong(name, "an integer", value)
        return value

    def integer(self, name: str, default: int) -> int:
        value = self.optional_int(name)
        return default if value is None else value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._fields.pop(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false", value)
        return value

    def seconds(self, name: str, default: float | None = None) -> float:
        value = self._fields.pop(name, default)
        if value is None:
            raise BadArgumentError(f"{self._where}: field {name} is required, give seconds")
        return self._number(name, value)

    def optional_seconds(self, name: str) -> float | None:
        value = self._fields.pop(name, None)
        return None if value is None else self._number(name, value)

    def optional_range(self, name: str) -> tuple[float | None, float | None]:
        """A number, ``[least, most]``, or null."""
        value = self._fields.pop(name, None)
        if value is None:
            return None, None
        if isinstance(value, list):
            pair = cast("list[Any]", value)
            if len(pair) != 2:
                raise self._wrong(name, "[least, most] in seconds", pair)
            least, most = self._number(name, pair[0]), self._number(name, pair[1])
            if least > most:
                raise self._wrong(name, "[least, most] in that order", pair)
            return least, most
        return self._number(name, value), None

    def optional_object(self, name: str) -> Arguments | None:
        value = self._fields.pop(name, None)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self._wrong(name, "an object", value)
        return Arguments(cast("dict[str, Any]", value), f"{self._where}.{name}")

    def mapping(self, name: str) -> dict[str, Any]:
        value = self._fields.pop(name, None)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong(name, "an object", value)
        return cast("dict[str, Any]", value)

    def texts(self, name: str) -> tuple[str, ...]:
        value: Any = self._fields.pop(name, None)
        if value is None:
            return ()
        entries = cast("list[Any]", value) if isinstance(value, list) else [value]
        if not all(isinstance(entry, str) for entry in entries):
            raise self._wrong(name, "a text or a list of texts", entries)
        return tuple(entries)

    def _number(self, name: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise self._wrong(name, "a number of seconds, 0 or more", value)
        return float(value)

    def _wrong(self, name: str, wanted: str, value: object) -> BadArgumentError:
        return BadArgumentError(f"{self._where}: field {name} must be {wanted}, not {value!r}")
