"""A container as `ps` tells it. What runs is the supervisor's word, not the record's."""

from __future__ import annotations

from typing import Any

import msgspec

from ctnr.bundles.mounts import parse_mount
from ctnr.records import Record, parse_labels
from supervisor.container import Container
from supervisor.network.attachment import Attachment
from supervisor.network.ports import PortMapping
from supervisor.spec import State


def summary(record: Record, container: Container | None) -> dict[str, Any]:
    """A row of `ps`; `container` is the one that runs, if one does."""
    attachments = container.attachments if container is not None else ()
    state = State.STOPPED if record.started is not None else State.CREATED
    return {
        "id": record.id,
        "name": record.name,
        "image": record.image,
        "image_id": record.image_id,
        "command": record.command,
        "created": record.created,
        "started": record.started if container is None else container.started_at or record.started,
        "finished": record.finished if container is None else container.finished_at,
        "state": container.observed_state if container is not None else state,
        "status": record.last_status if container is None else _last_status(container),
        "error": record.error if container is None or container.error is None else str(container.error),
        "pid": container.host_pid if container is not None else None,
        "networks": [
            {"network": one.network.name, "ifname": one.ifname, "addresses": one.addresses}
            for one in attachments
        ],
        "ports": describe_ports(container) if container is not None else [],
        "labels": parse_labels(record.request.labels),
        "bundle": record.bundle,
        "volumes": (
            *record.request.volumes,
            *(f"{one.source}:{one.target}" for one in map(parse_mount, record.request.mounts)),
        ),
        "health": str(container.health.status)
        if container is not None and container.health is not None
        else None,
    }


def describe_ports(container: Container) -> list[dict[str, Any]]:
    """The published ports of a container that runs."""
    return [describe_port(one, mapping) for one in container.attachments for mapping in one.ports]


def describe_port(attachment: Attachment, mapping: PortMapping) -> dict[str, Any]:
    """`source_kept`: whether the container sees other hosts' own addresses as the peers; null: not known."""
    return {
        **msgspec.to_builtins(mapping),
        "network": attachment.network.name,
        "source_kept": attachment.publisher.keeps_source(mapping),
    }


def _last_status(container: Container) -> int | None:
    """Of its last round, unless another one runs."""
    return container.status if container.finished_at is not None else None
