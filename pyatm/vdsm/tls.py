"""TLS to VDSM: our certificate, the one CA that is trusted, and what went wrong in words."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from pyatm.vdsm.errors import (
    ClientCertificateRefused,
    ConnectError,
    HostUnreachable,
    ServerNotTrusted,
    TlsError,
    TlsFilesError,
)

if TYPE_CHECKING:
    from pathlib import Path

_log = structlog.get_logger(__name__)

# OpenSSL's names of the alerts with which a server turns a client certificate down.
_CERTIFICATE_ALERTS = (
    "ALERT_CERTIFICATE",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_UNKNOWN_CA",
    "ALERT_DECRYPT_ERROR",  # a CA of the same name with another key
    "ALERT_ACCESS_DENIED",
    "ALERT_HANDSHAKE_FAILURE",
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the TLS material is.

    :param ca: PEM file with the only CA (or CAs) that may have signed the host's certificate; the
        CAs of the system are not used.
    :param certificate: PEM file with our certificate (and intermediate CAs). VDSM refuses a client
        without one.
    :param key: PEM file with its key, without pass phrase. None: in the certificate's file.
    :param check_host_name: compare the host name with the certificate. Off by default, because
        VDSM's certificates often carry another name than the address the host is reached by.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    check_host_name: bool = False


class TlsContext:
    """An ``ssl.SSLContext`` that follows its files: a change counts from the next connection on."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamps: tuple[tuple[int, int, int], ...] | None = None
        self._context: ssl.SSLContext | None = None

    def current(self) -> ssl.SSLContext:
        """The context for a new connection, loaded again when a file has changed.

        Files that do not fit together (they may be half replaced) leave the former context in use
        and are tried again next time. Raises :class:`TlsFilesError` when nothing could ever be
        loaded.
        """
        try:
            stamps = self._read_stamps()
            if self._context is None or stamps != self._stamps:
                self._context, self._stamps = self._load(), stamps
        except TlsFilesError as error:
            if self._context is None:
                raise
            _log.warning("new certificates cannot be used, the former stay", error=str(error))
        return self._context

    def _read_stamps(self) -> tuple[tuple[int, int, int], ...]:
        stamps: list[tuple[int, int, int]] = []
        for path in (self._files.ca, self._files.certificate, self._files.key):
            if path is None:
                continue
            try:
                status = path.stat()
            except OSError as error:
                raise TlsFilesError(f"{path}: {error.strerror}") from None
            stamps.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(stamps)

    def _load(self) -> ssl.SSLContext:
        files = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = files.check_host_name
        try:
            context.load_verify_locations(cafile=files.ca)
        except (OSError, ssl.SSLError) as error:
            raise TlsFilesError(f"{files.ca}: no usable CA certificate: {error}") from None
        if files.certificate is None:
            return context
        try:
            # An empty pass phrase, so that an encrypted key fails instead of asking on a terminal.
            context.load_cert_chain(files.certificate, files.key, password="")
        except (OSError, ssl.SSLError) as error:
            names = f"{files.certificate} and {files.key or 'its key'}"
            text = f"{names}: no usable certificate and key: {error}"
            raise TlsFilesError(text) from None
        return context


def explain(error: Exception | None, tls_version: str | None, tls: bool) -> ConnectError:
    """Say what an end of the connection before VDSM's first byte means.

    :param error: what was raised; None for an orderly end of the stream.
    :param tls_version: the version when the handshake had succeeded on our side, else None.
    :param tls: whether we speak TLS.
    """
    text = "the host closed the connection" if error is None else _words(error)
    if not tls:
        return HostUnreachable(f"{text}; before any answer, so the port may expect TLS")
    if isinstance(error, ssl.SSLCertVerificationError):
        return ServerNotTrusted(f"the host's certificate is not accepted: {error.verify_message}")
    if isinstance(error, ssl.SSLError) and any(a in _words(error) for a in _CERTIFICATE_ALERTS):
        return ClientCertificateRefused(f"the host refused our certificate: {text}")
    if tls_version == "TLSv1.3":
        return ClientCertificateRefused(
            f"{text}; right after a TLS 1.3 handshake and before any answer, which is how VDSM"
            " refuses a client certificate that is missing, expired or from another CA"
        )
    return TlsError(f"TLS set-up failed: {text}")


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason
    if isinstance(error, ConnectionResetError):
        return "the host closed the connection"
    return str(error) or type(error).__name__
