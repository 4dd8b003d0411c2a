"""A TCP port in front of a server that listens on a Unix socket only: JDBC speaks TCP."""

import select
import socket
import socketserver
import threading
from collections.abc import Generator
from contextlib import contextmanager

from psycopg.conninfo import conninfo_to_dict


@contextmanager
def tcp_address(dsn: str) -> Generator[tuple[str, int]]:
    """Host and port of the server that the connection string names."""
    named = conninfo_to_dict(dsn)
    host, port = str(named["host"]), int(named.get("port") or 5432)
    if not host.startswith("/"):
        yield host, port
        return

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(f"{host}/.s.PGSQL.{port}")
                other = {self.request: server, server: self.request}
                while True:
                    for ready in select.select(list(other), [], [])[0]:
                        if not (octets := ready.recv(65536)):
                            return
                        other[ready].sendall(octets)

    class Relays(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Relays(("127.0.0.1", 0), Relay) as relays:
        threading.Thread(target=relays.serve_forever, daemon=True).start()
        try:
            yield "127.0.0.1", relays.server_address[1]
        finally:
            relays.shutdown()
