"""Network configs (CNI 1.1.0 section 1): a typed view beside the bytes that stood in the file."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from netconf.decode import decode, decode_tolerant
from netconf.errors import NetconfError
from netconf.names import check_network_name, check_plugin_type
from netconf.versions import usable_versions

T = TypeVar("T")


class Dns(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Name service settings, as they stand in configs and in results."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class PluginConf(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin object of a network: what the runtime itself needs of it, and all of it as `raw`."""

    type: str
    capabilities: frozenset[str] = frozenset()  # those that are true
    ipam_type: str = ""  # "": no address management, or one of the plugin's own
    dns: Dns = Dns()
    raw: msgspec.Raw
    source: str
    field: str  # where in the source it stands, for messages

    def view(self, kind: builtins.type[T]) -> T:
        """The whole object as a Struct of the caller's. Raises: NetconfError with file and field."""
        return decode_tolerant(self.raw, kind, file=self.source, field=self.field)


class NetworkList(msgspec.Struct, frozen=True, kw_only=True):
    """A network: its plugins in order, and how to run them.

    `raw` is complete in itself: `NetworkList.from_bytes(network.raw, …)` needs no directory, also where the
    file was a single config or took plugins from a folder. `cni_versions` holds the versions that may be
    spoken, lowest first; `cni_version` is the highest.
    """

    name: str
    cni_versions: tuple[str, ...]
    disable_check: bool = False
    disable_gc: bool = False
    load_only_inlined_plugins: bool = False
    plugins: tuple[PluginConf, ...]
    raw: msgspec.Raw
    source: str

    @property
    def cni_version(self) -> str:
        return self.cni_versions[-1]

    @classmethod
    def from_bytes(
        cls, raw: bytes | msgspec.Raw, source: str, *, more_plugins: Sequence[tuple[str, bytes]] = ()
    ) -> NetworkList:
        """Read a list, or a single plugin config, which becomes a list of one.

        `source` names the origin in messages. `more_plugins` are (source, bytes) of the plugin configs that
        stand in a folder beside the file; `loadOnlyInlinedPlugins` keeps them out.
        Raises: NetconfError, whatever the bytes are.
        """
        fields = decode(raw, dict[str, msgspec.Raw], file=source)
        if "plugins" in fields or "type" not in fields:
            return _read_list(fields, bytes(raw), source, more_plugins)
        return _read_single(fields, bytes(raw), source)


def _read_list(
    fields: dict[str, msgspec.Raw], raw: bytes, source: str, more_plugins: Sequence[tuple[str, bytes]]
) -> NetworkList:
    name = _name(fields, source)
    only_inlined = _boolean(fields, "loadOnlyInlinedPlugins", source)
    inlined: list[msgspec.Raw] = []
    if "plugins" in fields:
        inlined = decode(fields["plugins"], list[msgspec.Raw], file=source, field="plugins")
        if not inlined:
            raise NetconfError(
                "is empty", file=source, field="plugins", expected="at least one plugin object"
            )
    elif only_inlined:
        raise NetconfError(
            "is missing", file=source, field="plugins", expected="it, as loadOnlyInlinedPlugins is true"
        )
    plugins = [_read_plugin(item, source, f"plugins[{i}]") for i, item in enumerate(inlined)]
    if more_plugins and not only_inlined:
        plugins += [_read_plugin(content, where, "") for where, content in more_plugins]
        whole = msgspec.Raw(msgspec.json.encode([plugin.raw for plugin in plugins]))
        # With all plugins in it the list must not look into the folder again.
        raw = msgspec.json.encode(
            fields | {"plugins": whole, "loadOnlyInlinedPlugins": msgspec.Raw(b"true")}
        )
    if not plugins:
        raise NetconfError(
            "is missing",
            file=source,
            field="plugins",
            expected='a list of plugin objects, or a single config with a "type"',
        )
    return NetworkList(
        name=name,
        cni_versions=_versions(fields, source),
        disable_check=_boolean(fields, "disableCheck", source),
        disable_gc=_boolean(fields, "disableGC", source),
        load_only_inlined_plugins=only_inlined,
        plugins=tuple(plugins),
        raw=msgspec.Raw(raw),
        source=source,
    )


def _read_single(fields: dict[str, msgspec.Raw], raw: bytes, source: str) -> NetworkList:
    head = {key: fields[key] for key in ("cniVersion", "cniVersions", "name") if key in fields}
    whole = msgspec.json.encode({**head, "plugins": [msgspec.Raw(raw.strip())]})
    return NetworkList(
        name=_name(fields, source),
        cni_versions=_versions(fields, source),
        plugins=(_read_plugin(msgspec.Raw(raw), source, ""),),
        raw=msgspec.Raw(whole),
        source=source,
    )


class _Ipam(msgspec.Struct):
    type: str = ""


class _PluginFields(msgspec.Struct):
    type: str = ""
    capabilities: dict[str, bool] = {}
    ipam: _Ipam = msgspec.field(default_factory=_Ipam)
    dns: Dns = msgspec.field(default_factory=Dns)


def _read_plugin(raw: bytes | msgspec.Raw, source: str, field: str) -> PluginConf:
    fields = decode_tolerant(raw, _PluginFields, file=source, field=field)
    prefix = f"{field}." if field else ""
    if not fields.type:
        raise NetconfError(
            "is missing",
            file=source,
            field=f"{prefix}type",
            expected='the name of a plugin, such as "bridge"',
        )
    check_plugin_type(fields.type, file=source, field=f"{prefix}type")
    if fields.ipam.type:
        check_plugin_type(fields.ipam.type, file=source, field=f"{prefix}ipam.type")
    return PluginConf(
        type=fields.type,
        capabilities=frozenset(name for name, wanted in fields.capabilities.items() if wanted),
        ipam_type=fields.ipam.type,
        dns=fields.dns,
        raw=msgspec.Raw(bytes(raw).strip()),
        source=source,
        field=field,
    )


def _name(fields: dict[str, msgspec.Raw], source: str) -> str:
    if "name" not in fields:
        raise NetconfError("is missing", file=source, field="name", expected="the network's name")
    return check_network_name(
        decode(fields["name"], str, file=source, field="name"), file=source, field="name"
    )


def _versions(fields: dict[str, msgspec.Raw], source: str) -> tuple[str, ...]:
    version = (
        decode(fields["cniVersion"], str, file=source, field="cniVersion") if "cniVersion" in fields else ""
    )
    versions: list[str] = []
    if "cniVersions" in fields:
        versions = decode(fields["cniVersions"], list[str], file=source, field="cniVersions")
    return usable_versions(version, versions, file=source)


def _boolean(fields: dict[str, msgspec.Raw], key: str, source: str) -> bool:
    """libcni takes the words as well, in any case."""
    if key not in fields:
        return False
    value = decode(fields[key], bool | str, file=source, field=key)  # type: ignore[arg-type]  # a union is no type[T]
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word not in ("true", "false"):
        raise NetconfError(f"is {value!r}", file=source, field=key, expected="true or false")
    return word == "true"
