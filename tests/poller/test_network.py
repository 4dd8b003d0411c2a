"""Networks between the poller, its database and its hosts that are cut, hang, or go through TLS."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyatm.simulator.ca import generate_ca
from pyatm.simulator.process import SimulatorProcess
from pyatm.vdsm import Address, TlsFiles, VdsmClient
from tests.poller.network import Network
from tests.poller.stage import DOMAIN, UNTIL_TOLD, Stage, until

Running = Callable[..., Any]


def to_the_server(stage: Stage) -> Network:
    """A network in front of the database server."""
    place = conninfo_to_dict(stage.dsn)
    return Network(str(place["host"]), int(place.get("port") or 5432))


def through(network: Network, stage: Stage) -> str:
    return make_conninfo(stage.dsn, host="127.0.0.1", port=network.port, sslmode="disable")


async def test_a_half_open_network_to_the_database_is_noticed_and_left(
    stage: Stage, running: Running
) -> None:
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    stage.pool(host, pool_id=pool)
    async with to_the_server(stage) as network:
        poller = stage.poller(
            PYATM_DSN=through(network, stage), PYATM_POLLER__DATABASE_TIMEOUT="1.5"
        )
        with poller:
            await asyncio.to_thread(poller.wait_ready)
            command, _ = await stage.command(host, pool)
            await until(lambda: stage.polled_host(pool), "the pool is polled")
            network.freeze()
            async with host.control() as control:
                await control.finish()
            await until(lambda: poller.logged("cannot look for pools"), "calls are given up")
            await until(lambda: poller.logged("not listening; trying again"), "LISTEN too")
            network.thaw()
            await stage.ended(command, "succeeded")
            # Told to end while the network hangs: it does not wait for answers that never come.
            network.freeze()
            assert await asyncio.to_thread(poller.end) == 0


async def test_cut_connections_are_made_again(stage: Stage, running: Running) -> None:
    pool = str(uuid.uuid4())
    directory = stage.directory / "vdsm"
    host = running(SimulatorProcess(directory, pools=(pool,), spm=True, options=UNTIL_TOLD))
    async with to_the_server(stage) as first, Network(host.host, host.port) as second:
        stage.value(
            "select atm.set_pool(%s, 'a', jsonb_build_array(jsonb_build_object("
            "'address', '127.0.0.1', 'port', %s::int)))",
            pool,
            second.port,
        )
        with stage.poller(PYATM_DSN=through(first, stage)) as poller:
            await asyncio.to_thread(poller.wait_ready)
            command, _ = await stage.command(host, pool)
            await until(lambda: stage.polled_host(pool), "the pool is polled")
            for _ in range(4):
                await until(lambda: first.connections and second.connections, "it is connected")
                first.cut()
                second.cut()
                await asyncio.sleep(0.1)
            async with host.control() as control:
                await control.finish()
            await stage.ended(command, "succeeded")
            assert await asyncio.to_thread(poller.end) == 0


async def test_tls_end_to_end_and_certificates_that_are_renewed(
    stage: Stage, running: Running
) -> None:
    pool, directory = str(uuid.uuid4()), stage.directory / "tls"
    generate_ca(directory)
    options = (*UNTIL_TOLD, "--tls-dir", str(directory))
    host = running(
        SimulatorProcess(stage.directory / "vdsm", pools=(pool,), spm=True, options=options)
    )
    stage.pool(host, pool_id=pool)
    ours = TlsFiles(
        directory / "ca.pem", directory / "client-cert.pem", directory / "client-key.pem"
    )
    poller = running(
        stage.poller(
            PYATM_VDSM__TLS="true",
            PYATM_VDSM__CA=str(ours.ca),
            PYATM_VDSM__CERTIFICATE=str(ours.certificate),
            PYATM_VDSM__KEY=str(ours.key),
        )
    )
    address = f"{host.host}:{host.port}"
    await until(lambda: stage.polled_host(pool) == address, "the pool is polled")

    async def command() -> str:
        made, (task,) = stage.plan(pool)
        async with VdsmClient(Address(host.host, host.port), tls=ours) as client:
            image = str(uuid.uuid4())
            stage.bind(task, await client.image.delete(image, pool_id=pool, domain_id=DOMAIN))
        return made

    before = await command()
    async with host.control() as control:
        await control.finish()
    await stage.ended(before, "succeeded")
    host.stop()
    # Another authority: what the poller has read before is worth nothing now.
    generate_ca(directory)
    host.start()
    after = await command()
    async with host.control() as control:
        await control.finish()
    await stage.ended(after, "succeeded")
    assert not poller.logged("settings reloaded")
