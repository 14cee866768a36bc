"""/etc/resolv.conf of containers that run: written anew when their networks change, and when the host's does.

The file is mounted, so it is written in place. One that its container has changed is left alone.
"""

from __future__ import annotations

import structlog
import trio

from ctnr.bundles.build import resolv_conf
from ctnr.bundles.etc_files import RESOLV_CONF, SYSTEMD_RESOLV_CONF, ResolvConf, read_host_resolv_conf
from ctnr.records import Records
from supervisor.container import Container
from supervisor.errors import SupervisorError
from supervisor.spec import State
from supervisor.supervisor import Supervisor
from supervisor.watch import open_watch

log = structlog.get_logger()

AGAIN_SECONDS = 1.0


async def follow_host(supervisor: Supervisor, records: Records) -> None:
    """Until cancelled: the host has changed networks, and its containers go with it."""
    known = read_host_resolv_conf()
    try:
        async with open_watch(RESOLV_CONF, SYSTEMD_RESOLV_CONF) as watch:
            while True:
                await watch.wait_change()
                host = read_host_resolv_conf()
                if host != known:
                    log.info("host_name_servers_changed", nameservers=host.nameservers)
                    await _rewrite_all(supervisor, records, known, host)
                    known = host
    except OSError as exc:
        log.warning("host_name_servers_not_followed", error=str(exc))


async def _rewrite_all(supervisor: Supervisor, records: Records, old: ResolvConf, new: ResolvConf) -> None:
    """Those, too, that are just being made, and may have read the old file."""
    while True:
        unfinished = False
        for container in list(supervisor.containers.values()):
            unfinished = unfinished or container.state is State.CREATED
            try:
                await _rewrite(container, records, old, new)
            except (SupervisorError, OSError) as exc:  # it has ended, or is not that far
                log.info("resolv_conf_not_written", container=container.name, error=str(exc))
        if not unfinished:
            return
        await trio.sleep(AGAIN_SECONDS)


async def rewrite_for(container: Container, supervisor: Supervisor, records: Records) -> None:
    """Its networks have changed: for it, and for those that share them. Raises: SupervisorError, OSError."""
    for one in list(supervisor.containers.values()):
        if container in (one, one.spec.shares):
            await _rewrite(one, records)


async def _rewrite(
    container: Container, records: Records, old: ResolvConf | None = None, new: ResolvConf | None = None
) -> None:
    """Write the file as it is to be now; where `old` is given, only if it is what was to be with that."""
    request = records.get(container.id).request
    shares = container.spec.shares
    attachments = container.attachments if shares is None else shares.attachments
    private = container.netns is not None
    content = resolv_conf(request, attachments, private=private, host=new)
    if content is None:
        return
    path = f"{container.directory}/resolv.conf"
    if old is not None:
        was = resolv_conf(request, attachments, private=private, host=old)
        if was is None or await container.sandbox.read_text(path) != was.decode():
            return
    await container.sandbox.write_files({path: (0o644, content)})
