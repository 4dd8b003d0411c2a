"""TLS between client and VDSM: every pairing that goes wrong, with real certificates."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from pyatm.simulator.ca import generate_ca, make_authority, make_certificate
from pyatm.vdsm import (
    Address,
    Backoff,
    ClientCertificateRefused,
    ClientSettings,
    ConnectError,
    ConnectionSettings,
    ConnectTimeout,
    HostUnreachable,
    NotSent,
    ServerNotTrusted,
    TlsError,
    TlsFiles,
    TlsFilesError,
    VdsmClient,
    VersionRejected,
    outcome,
)
from tests.protocol.scripted import Peer, ScriptedVdsm

if TYPE_CHECKING:
    from pathlib import Path

# It never connects by itself: each test says when.
CALM = ClientSettings(backoff=Backoff(first=3600, longest=3600))


@dataclass(frozen=True, slots=True)
class Certificates:
    """A CA with a server's and a client's certificate, a foreign CA, and an expired client."""

    folder: Path
    foreign: Path

    @property
    def good(self) -> TlsFiles:
        return self.client("client")

    def client(self, name: str) -> TlsFiles:
        return TlsFiles(
            self.folder / "ca.pem",
            self.folder / f"{name}-cert.pem",
            self.folder / f"{name}-key.pem",
        )

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.folder / "server-cert.pem", self.folder / "server-key.pem")
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("tls")
    generate_ca(folder)
    generate_ca(folder / "foreign")
    authority = make_authority("pyatm test CA 2")
    (folder / "second-ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    make_certificate(authority, "pyatm", server=False, expired=True).write(folder, "expired")
    make_certificate(authority, "127.0.0.1", server=True).write(folder, "second-server")
    return Certificates(folder, folder / "foreign")


async def failure(server: ScriptedVdsm | Address, tls: TlsFiles | None) -> ConnectError:
    """The error of a connection that must not come about."""
    address = server if isinstance(server, Address) else server.address
    async with VdsmClient(address, tls=tls, settings=CALM) as client:
        with pytest.raises(ConnectError) as raised:
            await client.connect()
        assert not client.state.connected
        assert isinstance(await outcome(client.call("Host.ping2", timeout=0.1)), NotSent)
    return raised.value


async def ping_works(server: ScriptedVdsm, tls: TlsFiles | None) -> None:
    async with VdsmClient(server.address, tls=tls, settings=CALM) as client:
        peer = await server.welcome()
        ping = asyncio.create_task(client.host.ping())
        peer.answer(await peer.asked(), True)
        await ping


versions = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)


@versions
async def test_a_good_certificate_is_accepted(
    certificates: Certificates, version: ssl.TLSVersion
) -> None:
    context = certificates.server()
    context.minimum_version = context.maximum_version = version
    async with ScriptedVdsm(context) as server:
        await ping_works(server, certificates.good)


@versions
@pytest.mark.parametrize("kind", ["missing", "foreign", "expired"])
async def test_a_certificate_that_the_host_refuses_is_reported_as_that(
    certificates: Certificates, version: ssl.TLSVersion, kind: str
) -> None:
    context = certificates.server()
    context.minimum_version = context.maximum_version = version
    # The expired one is of a CA that the server trusts, so that only the date is wrong.
    context.load_verify_locations(certificates.folder / "second-ca.pem")
    files = {
        "missing": TlsFiles(certificates.good.ca),
        "foreign": replace(
            certificates.good,
            certificate=certificates.foreign / "client-cert.pem",
            key=certificates.foreign / "client-key.pem",
        ),
        "expired": certificates.client("expired"),
    }[kind]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = asyncio.create_task(asyncio.to_thread(_shake_hands, context, listener))
        error = await failure(Address("127.0.0.1", listener.getsockname()[1]), files)
        assert await refusing is not None
    assert isinstance(error, ClientCertificateRefused), repr(error)
    assert "certificate" in str(error)


def _shake_hands(context: ssl.SSLContext, listener: socket.socket) -> ssl.SSLError | None:
    """One blocking handshake, with its alert, as in VDSM (asyncio's servers lose the alert)."""
    connection, _ = listener.accept()
    try:
        with context.wrap_socket(connection, server_side=True):
            return None
    except ssl.SSLError as error:
        return error
    finally:
        connection.close()


async def test_an_end_of_stream_right_after_a_tls_1_3_handshake_is_a_refused_certificate(
    certificates: Certificates,
) -> None:
    """VDSM often sends no alert at all."""
    async with ScriptedVdsm(certificates.server()) as server:
        failing = asyncio.create_task(failure(server, certificates.good))
        (await server.accept()).writer.transport.abort()
        error = await failing
        assert isinstance(error, ClientCertificateRefused), repr(error)
        assert "TLS 1.3" in str(error)


async def test_a_host_of_another_ca_is_not_trusted(certificates: Certificates) -> None:
    async with ScriptedVdsm(certificates.server()) as server:
        error = await failure(
            server, replace(certificates.good, ca=certificates.foreign / "ca.pem")
        )
        assert isinstance(error, ServerNotTrusted), repr(error)


async def test_the_host_name_is_compared_only_when_asked_for(certificates: Certificates) -> None:
    """The certificate is for 127.0.0.1 and localhost, the server is reached as 127.0.0.2."""
    async with ScriptedVdsm(certificates.server()) as server:
        server.address = replace(server.address, host="127.0.0.2")
        relay = await asyncio.start_server(
            lambda r, w: _relay(r, w, server.address.port), "127.0.0.2", 0
        )
        elsewhere = ScriptedVdsm()
        elsewhere.address = replace(server.address, port=relay.sockets[0].getsockname()[1])
        strict = replace(certificates.good, check_host_name=True)
        error = await failure(elsewhere, strict)
        assert isinstance(error, ServerNotTrusted), repr(error)
        async with VdsmClient(elsewhere.address, tls=certificates.good, settings=CALM) as client:
            peer: Peer = await server.welcome()
            ping = asyncio.create_task(client.host.ping())
            peer.answer(await peer.asked(), True)
            await ping
        relay.close()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    back, out = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
        except OSError:
            pass
        target.close()

    await asyncio.gather(copy(reader, out), copy(back, writer))


async def test_plain_against_tls_is_a_named_error(certificates: Certificates) -> None:
    async with ScriptedVdsm(certificates.server()) as server:
        error = await failure(server, None)
        assert isinstance(error, HostUnreachable | VersionRejected), repr(error)
        assert "TLS" in str(error)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_tls_against_plain_is_a_named_error(
    certificates: Certificates, answer: bytes
) -> None:
    async with ScriptedVdsm() as server:
        failing = asyncio.create_task(failure(server, certificates.good))
        peer = await server.accept()
        await peer.reader.read(100)
        peer.writer.write(answer)
        peer.close()
        error = await failing
        assert isinstance(error, TlsError), repr(error)
        assert not isinstance(error, ClientCertificateRefused)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_tls_1_1_is_refused(certificates: Certificates) -> None:
    context = certificates.server()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with ScriptedVdsm(context) as server:
        error = await failure(server, certificates.good)
        assert isinstance(error, TlsError), repr(error)
        assert not isinstance(error, ClientCertificateRefused)


async def test_a_silent_tls_port_is_a_timeout(certificates: Certificates) -> None:
    settings = ClientSettings(
        backoff=CALM.backoff, connection=ConnectionSettings(connect_timeout=0.3)
    )
    async with (
        ScriptedVdsm() as server,
        VdsmClient(server.address, tls=certificates.good, settings=settings) as client,
    ):
        with pytest.raises(ConnectTimeout):
            await client.connect()


@pytest.mark.parametrize("field", ["ca", "certificate", "key"])
@pytest.mark.parametrize("damage", ["missing", "nonsense"])
async def test_a_bad_file_is_named(
    certificates: Certificates, tmp_path: Path, field: str, damage: str
) -> None:
    path = tmp_path / "broken.pem"
    if damage == "nonsense":
        path.write_text("nonsense")
    async with ScriptedVdsm() as server:
        error = await failure(server, replace(certificates.good, **{field: path}))
        assert isinstance(error, TlsFilesError)
        assert "broken.pem" in str(error)


async def test_replaced_certificates_count_from_the_next_connection_on(
    certificates: Certificates, tmp_path: Path
) -> None:
    for name in ("ca.pem", "client-cert.pem", "client-key.pem"):
        shutil.copy(certificates.folder / name, tmp_path / name)
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "client-cert.pem", tmp_path / "client-key.pem")
    settings = ClientSettings(backoff=Backoff(first=0.01, longest=0.05))
    async with (
        ScriptedVdsm(certificates.server()) as server,
        VdsmClient(server.address, tls=files, settings=settings) as client,
    ):
        peer = await server.welcome()
        await client.connect()
        # Half replaced: the former pair stays in use.
        shutil.copy(certificates.foreign / "client-key.pem", tmp_path / "client-key.pem")
        os.utime(tmp_path / "client-key.pem", (time.time() + 5, time.time() + 5))
        peer.close()
        peer = await server.welcome()
        await client.connect()
        # Replaced as a whole by a pair that this server refuses.
        shutil.copy(certificates.foreign / "client-cert.pem", tmp_path / "client-cert.pem")
        peer.close()
        await peer.closed()
        async with asyncio.timeout(20):
            while not isinstance(client.state.last_error, ClientCertificateRefused):
                await asyncio.sleep(0.01)
