"""A certificate authority for tests: one directory with its keys and certificates."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

_DAY: Final = datetime.timedelta(days=1)
_LIFETIME: Final = 365 * _DAY


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def write(self, directory: Path, name: str) -> None:
        """Write ``<name>-key.pem`` (mode 600) and ``<name>-cert.pem``."""
        key = directory / f"{name}-key.pem"
        key.touch(mode=0o600)
        key.write_bytes(
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        write_certificate(self.certificate, directory / f"{name}-cert.pem")


def generate_ca(directory: Path) -> None:
    """Make ``ca.pem``, and server and client certificates with their keys, in a directory.

    Files: ``ca.pem``, ``server-cert.pem``, ``server-key.pem``, ``client-cert.pem``,
    ``client-key.pem``. Files that exist are replaced.
    """
    directory.mkdir(parents=True, exist_ok=True)
    authority = make_authority("pyatm test CA")
    write_certificate(authority.certificate, directory / "ca.pem")
    make_certificate(authority, "127.0.0.1", server=True).write(directory, "server")
    make_certificate(authority, "pyatm", server=False).write(directory, "client")


def write_certificate(certificate: x509.Certificate, path: Path) -> None:
    """Write a certificate as PEM."""
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def make_authority(name: str) -> KeyPair:
    """A new certificate authority with a certificate that it signed itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(name, name, key.public_key(), expired=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    return KeyPair(key, certificate)


def make_certificate(
    authority: KeyPair, name: str, *, server: bool, expired: bool = False
) -> KeyPair:
    """A certificate of ``authority``.

    Args:
        name: its common name.
        server: for 127.0.0.1 and localhost; otherwise for a client.
        expired: its time is over.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(name, str(issuer), key.public_key(), expired=expired)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    )
    if server:
        names = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return KeyPair(key, builder.sign(authority.key, hashes.SHA256()))


def _builder(
    subject: str, issuer: str, key: ec.EllipticCurvePublicKey, *, expired: bool
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    begin, end = (now - 30 * _DAY, now - _DAY) if expired else (now - _DAY, now + _LIFETIME)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
