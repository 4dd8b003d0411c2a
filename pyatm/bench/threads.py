"""The threads of a subject: started together, stopped together, the first failure told."""

import threading
from collections.abc import Callable

JOIN_TIMEOUT = 60.0


class Threads:
    """Threads that work until they are told to stop."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    @property
    def stopping(self) -> bool:
        """Whether the work should end."""
        return self._stop.is_set()

    def wait(self, seconds: float) -> None:
        """Sleep, no longer than until the end."""
        self._stop.wait(seconds)

    def failed(self) -> bool:
        """Whether a thread has ended with an exception."""
        return bool(self._failures)

    def start(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread; it returns soon after `stopping`."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self._failures.append(error)
                self._stop.set()

        # A daemon: a thread that hangs must not keep the program from ending.
        thread = threading.Thread(target=guarded, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Wait for the end of all; raises the first failure."""
        self._stop.set()
        for thread in self._threads:
            thread.join(JOIN_TIMEOUT)
        if self._failures:
            raise self._failures[0]
        if any(thread.is_alive() for thread in self._threads):
            raise TimeoutError(f"a thread does not end within {JOIN_TIMEOUT:g} s")
