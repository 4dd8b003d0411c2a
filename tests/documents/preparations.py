"""What a document finds in its database."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.documents.mess import make_a_mess

PREPARED: Final[dict[str, Callable[[str], None]]] = {
    "docs/dba-guide.md": make_a_mess,
    "docs/from-taskcleaner.md": make_a_mess,
}


def prepare(document: Path, dsn: str) -> None:
    """Prepare the migrated database for the document."""
    for name, preparation in PREPARED.items():
        if str(document).endswith(name):
            preparation(dsn)
