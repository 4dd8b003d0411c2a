"""The entry point of the `pyatm` program: Ctrl-C while it still loads ends it without a word."""

import signal


def main() -> None:
    """Load the program and run it."""
    quiet = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if quiet:
        # Nothing has been started yet, so nothing has to be ended in order.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pyatm.cli.main import main as program

    if quiet:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    program()


if __name__ == "__main__":
    main()
