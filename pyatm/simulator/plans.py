"""How the work of tasks goes: how long it lasts, how it ends, what its rollback does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pyatm.simulator import errors

if TYPE_CHECKING:
    from pyatm.simulator.values import Arguments


@dataclass(frozen=True, slots=True)
class Failure:
    """How the work of a task fails.

    Attributes:
        code: a code of the storage layer, or None for any other exception (which becomes 100).
        message: text of the exception; None: VDSM's usual text for that code.
    """

    code: int | None
    message: str | None = None

    def exception(self) -> Exception:
        if self.code is None:
            return RuntimeError(self.message or "unexpected end of output")
        return errors.storage_fault(self.code, self.message)

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        """From ``code`` and ``message``, or ``errno``, or ``message`` alone (any exception)."""
        number = arguments.optional_int("errno")
        if number is not None:
            return cls(None, str(OSError(number, os.strerror(number))))
        return cls(arguments.optional_int("code"), arguments.optional_text("message"))

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message}


@dataclass(frozen=True, slots=True)
class Rollback:
    """What undoing a task takes.

    Attributes:
        seconds: how long the step takes.
        fails: the step raises; the task then ends cleanFailure.
    """

    seconds: float = 0.0
    fails: bool = False


@dataclass(frozen=True, slots=True)
class JobPlan:
    """The course of a task's work.

    Attributes:
        shortest: least seconds that it lasts; None: until it is told to end.
        longest: most seconds; a length between the two is drawn at random.
        ignores_stop: the work does not react to Task.stop.
        failure: how it fails at its end, None: it succeeds.
        rollback: what its rollback does.
    """

    shortest: float | None = 0.2
    longest: float | None = None
    ignores_stop: bool = False
    failure: Failure | None = None
    rollback: Rollback = Rollback()

    @classmethod
    def read(cls, arguments: Arguments) -> Self:
        """From ``seconds`` (number, ``[least, most]`` or null: until told) and the other fields."""
        shortest, longest = arguments.optional_range("seconds")
        failure = arguments.optional_object("failure")
        return cls(
            shortest=shortest,
            longest=longest,
            ignores_stop=arguments.flag("ignores_stop"),
            failure=None if failure is None else Failure.read(failure),
            rollback=Rollback(
                arguments.seconds("rollback_seconds", 0.0), arguments.flag("rollback_fails")
            ),
        )
