"""What commands print: results on stdout, for people or as JSON; log lines on stderr."""

import json
import logging
import os
import sys
from typing import Any

import structlog
from rich.console import Console


def console() -> Console:
    """Standard output for people; colours only on a terminal."""
    return Console(highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON value on stdout; what JSON does not know (uuid, time) as text."""
    sys.stdout.write(json.dumps(value, default=str, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def log_to_stderr(level: str | None = None) -> None:
    """Send log lines to stderr, so that stdout has nothing but results.

    Args:
        level: lowest level shown; None takes PYATM_LOG_LEVEL, or warning.
    """
    name = (level or os.environ.get("PYATM_LOG_LEVEL") or "warning").upper()
    threshold = logging.getLevelNamesMapping().get(name, logging.WARNING)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(stream=sys.stderr, level=threshold, force=True)
