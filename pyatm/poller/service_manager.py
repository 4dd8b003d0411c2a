"""What systemd wants to hear from a service of `Type=notify`: ready, status, alive."""

from __future__ import annotations

import os
import socket
import time


class ServiceManager:
    """Talks to systemd over its notification socket; without one every call does nothing."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between two signs of life, half of what systemd allows; None: no watchdog."""
        value = os.environ.get("WATCHDOG_USEC", "")
        pid = os.environ.get("WATCHDOG_PID", "")
        if not self._address or not value.isdigit() or (pid and pid != str(os.getpid())):
            return None
        return int(value) / 2_000_000

    def ready(self, status: str) -> None:
        """The service works; also the end of a reload."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """The watchdog's food."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Settings are being read again; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service is on its way out."""
        self._send("STOPPING=1\nSTATUS=giving up its pools")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A leading @ names a socket in the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), address)
        except OSError:
            # Out of descriptors or a full socket: systemd's own time limits then decide.
            return
