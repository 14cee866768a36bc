"""CNI configs, requests and results as data: no processes, no sockets, no event loop.

The names below are loaded at first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netconf.conf import Dns as Dns
    from netconf.conf import NetworkList as NetworkList
    from netconf.conf import PluginConf as PluginConf
    from netconf.errors import ErrorCode as ErrorCode
    from netconf.errors import ErrorReply as ErrorReply
    from netconf.errors import NetconfError as NetconfError
    from netconf.errors import NetworkNotFound as NetworkNotFound
    from netconf.errors import build_error as build_error
    from netconf.errors import parse_error as parse_error
    from netconf.load import builtin_names as builtin_names
    from netconf.load import is_builtin as is_builtin
    from netconf.load import list_networks as list_networks
    from netconf.load import load_builtin as load_builtin
    from netconf.load import load_file as load_file
    from netconf.load import load_network as load_network
    from netconf.load import search_path as search_path
    from netconf.names import check_container_id as check_container_id
    from netconf.names import check_ifname as check_ifname
    from netconf.names import check_network_name as check_network_name
    from netconf.request import AttachmentArgs as AttachmentArgs
    from netconf.request import build_env as build_env
    from netconf.request import build_request as build_request
    from netconf.request import build_version_request as build_version_request
    from netconf.request import parse_cni_args as parse_cni_args
    from netconf.result import Interface as Interface
    from netconf.result import IPConfig as IPConfig
    from netconf.result import Result as Result
    from netconf.result import Route as Route
    from netconf.result import convert_result as convert_result
    from netconf.result import encode_result as encode_result
    from netconf.result import parse_result as parse_result
    from netconf.result import parse_versions as parse_versions

_HOMES = {
    "conf": ("Dns", "NetworkList", "PluginConf"),
    "errors": ("ErrorCode", "ErrorReply", "NetconfError", "NetworkNotFound", "build_error", "parse_error"),
    "load": (
        "builtin_names",
        "is_builtin",
        "list_networks",
        "load_builtin",
        "load_file",
        "load_network",
        "search_path",
    ),
    "names": ("check_container_id", "check_ifname", "check_network_name"),
    "request": ("AttachmentArgs", "build_env", "build_request", "build_version_request", "parse_cni_args"),
    "result": (
        "IPConfig",
        "Interface",
        "Result",
        "Route",
        "convert_result",
        "encode_result",
        "parse_result",
        "parse_versions",
    ),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_MODULES)  # made from the table, so that the two can't drift apart


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
