"""Everything a poller needs, tried once: database, schema, grants, certificates, each host."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg

from pyatm.database.dsn import redacted
from pyatm.database.session import aconnect
from pyatm.poller.daemon import CHANNEL, client_for, tls_files
from pyatm.poller.database import PollerDatabase, SchemaError
from pyatm.vdsm import CallError, ConnectError
from pyatm.vdsm.tls import TlsContext

if TYPE_CHECKING:
    from pyatm.config import Settings
    from pyatm.vdsm import Address


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    :param subject: what, for example ``database`` or ``host 192.0.2.7:54321``.
    :param ok: it works.
    :param text: what was found.
    :param fix: what to do, when something is to be done.
    """

    subject: str
    ok: bool
    text: str
    fix: str | None = None


async def check(settings: Settings, dsn: str, listen_dsn: str) -> list[Finding]:
    """Try everything and say what was found; takes no lease and changes nothing."""
    findings = [_certificates(settings)]
    async with PollerDatabase(dsn, connections=1, timeout=20.0) as database:
        try:
            await database.check_schema()
            pools = await database.pools()
        except SchemaError as error:
            return [*findings, Finding("schema", False, str(error))]
        except psycopg.Error as error:
            fix = "check PYATM_DSN or dsn in the configuration file, and that the server runs"
            text = f"{redacted(dsn)}: {str(error).strip()}"
            return [*findings, Finding("database", False, text, fix)]
    findings.append(Finding("database", True, redacted(dsn)))
    findings.append(Finding("schema", True, "complete, and this user may call what a poller calls"))
    findings.append(await _listen(listen_dsn))
    if not pools:
        fix = "call atm.set_pool(storage_pool_id, pool_name, hosts)"
        findings.append(Finding("pools", True, "none is set: a poller would have no work", fix))
    if findings[0].ok:
        for pool in pools:
            found = await asyncio.gather(
                *(_host(settings, str(pool.storage_pool_id), host) for host in pool.hosts)
            )
            findings += [each for each, _ in found]
            findings.append(_spm(str(pool.storage_pool_id), [spm for _, spm in found]))
    return findings


def _certificates(settings: Settings) -> Finding:
    try:
        files = tls_files(settings.vdsm)
        if files is None:
            return Finding("certificates", True, "not used: vdsm.tls is false")
        TlsContext(files).current()
    except (ValueError, ConnectError) as error:
        fix = "see certificate, key and ca in [vdsm]"
        return Finding("certificates", False, str(error), fix)
    if files.certificate is not None:
        # Imported only here: it costs a noticeable part of the program's start.
        from cryptography import x509

        ends = x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc
        text = f"our certificate is good until {ends:%Y-%m-%d}"
        return Finding("certificates", ends > datetime.now(UTC), text, "renew it before that day")
    return Finding("certificates", True, "readable; without one of our own VDSM refuses us")


async def _listen(dsn: str) -> Finding:
    try:
        connection = await aconnect(dsn, application_name="pyatm poller check", autocommit=True)
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}".encode())
    except psycopg.Error as error:
        fix = "listen_dsn must lead to the server itself, not to a pooler in transaction mode"
        return Finding("listen", False, str(error).strip(), fix)
    return Finding("listen", True, "a direct connection can LISTEN")


async def _host(settings: Settings, pool_id: str, address: Address) -> tuple[Finding, bool]:
    """What was found about a host, and whether it is SPM."""
    subject = f"host {address}"
    client = client_for(address, settings)
    try:
        await client.connect()
        await client.host.ping()
        status = await client.pool.get_spm_status(pool_id)
    except ConnectError as error:
        fix = "check address and port in atm.set_pool, the firewall, and that vdsmd runs"
        return Finding(subject, False, f"{type(error).__name__}: {error}", fix), False
    except CallError as error:
        fix = f"the host must be connected to storage pool {pool_id}"
        return Finding(subject, False, str(error), fix), False
    finally:
        await client.close()
    return Finding(subject, True, f"answers, role {status.role}"), status.is_spm


def _spm(pool_id: str, roles: list[bool]) -> Finding:
    subject = f"pool {pool_id}"
    if any(roles):
        return Finding(subject, True, "has an SPM")
    fix = "tasks go on when the engine has started one; see hosts in atm.pools"
    return Finding(subject, False, "no host says that it is SPM", fix)
