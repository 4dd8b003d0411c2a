"""What ends a command, and with which exit code."""

from typing import Final

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_CONFIGURATION: Final = 78
"""EX_CONFIG of sysexits.h; systemd's `RestartPreventExitStatus` knows it."""


class CommandError(Exception):
    """A command cannot go on; `main` prints the message without a traceback.

    Args:
        message: what is wrong, in the user's terms.
        fix: what the user can do about it, when we know it.
        exit_code: the process's exit code.
    """

    def __init__(self, message: str, *, fix: str | None = None, exit_code: int = EXIT_FAILURE):
        super().__init__(message)
        self.fix = fix
        self.exit_code = exit_code
