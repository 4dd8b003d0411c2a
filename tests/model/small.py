"""Base of the small models: plain tuples as states, no symmetry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

READ_COMMITTED, REPEATABLE_READ = "read committed", "repeatable read"


@dataclass(frozen=True, slots=True)
class Small:
    """Two transactions that meet, under one isolation level, perhaps without one rule."""

    isolation: str = READ_COMMITTED
    flaws: frozenset[str] = frozenset()

    def pack(self, state: Any, symmetry: bool) -> Any:
        """States are hashable as they are."""
        return state

    def unpack(self, packed: Any) -> Any:
        """See pack."""
        return packed

    def violations(self, state: Any) -> Iterable[str]:
        """Nothing wrong in a state by itself."""
        return ()

    def regressions(self, before: Any, after: Any) -> Iterable[str]:
        """Nothing wrong in a step by itself."""
        return ()
