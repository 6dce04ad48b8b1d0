"""Who is at the other end, what address did they use, and how much of what they say is believed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request

from standby.config import ServerSettings

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")


def base_url(request: Request, settings: ServerSettings) -> str:
    """Build the absolute base in front of `/v1` as this client reaches it (contract 11.1); no slash at the end."""
    prefix = path_prefix(settings)
    if settings.public_url:
        return settings.public_url.rstrip("/") + prefix
    headers = request.headers if is_trusted(request, settings) else Headers()
    scheme = _last(headers.get("x-forwarded-proto")).lower()
    scheme = scheme if scheme in {"http", "https"} else str(request.scope.get("scheme", "http"))
    host = _valid_host(_last(headers.get("x-forwarded-host"))) or _valid_host(request.headers.get("host", ""))
    outer = _last(headers.get("x-forwarded-prefix")).rstrip("/")
    return f"{scheme}://{host or _own_address(request)}{outer if _PREFIX.fullmatch(outer) else ''}{prefix}"


def path_prefix(settings: ServerSettings) -> str:
    """Read the path in front of `/v1`: empty, or one slash in front and none at the end."""
    inner = settings.path_prefix.strip("/")
    return f"/{inner}" if inner else ""


def is_trusted(request: Request, settings: ServerSettings) -> bool:
    """Whether the direct peer is a proxy whose forwarded headers are believed."""
    return request.client is not None and _is_among(request.client.host, settings.trusted_proxies)


def is_local(request: Request, settings: ServerSettings) -> bool:
    """Whether this call comes from this machine and was meant for it.

    A browser on this machine also runs pages of strangers: their calls carry a foreign `Origin`, or the
    foreign name that they made point here in `Host`. Neither is believed to be local.
    """
    origin = request.headers.get("origin")
    return (
        _is_loopback(_client_address(request, settings))
        and _is_local_name(_name_of(request.headers.get("host", "")), settings)
        and (origin is None or _is_local_name(urlsplit(origin).hostname or "", settings))
    )


def _client_address(request: Request, settings: ServerSettings) -> str:
    if request.client is None:
        return ""
    if is_trusted(request, settings):
        return _last(request.headers.get("x-forwarded-for")) or request.client.host
    return request.client.host


def _is_local_name(name: str, settings: ServerSettings) -> bool:
    # A name without a dot is not in the public DNS, so no stranger can make it point here.
    if "." not in name or name.endswith(".localhost"):
        return True
    return _is_loopback(name) or name == _name_of(urlsplit(settings.public_url).netloc)


def _name_of(host: str) -> str:
    name = host.lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.rpartition(":")[0] if name.count(":") == 1 else name


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def _is_among(address: str, networks: Sequence[str]) -> bool:
    return any(network in {"*", address} or _is_inside(address, network) for network in networks)


def _is_inside(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _valid_host(host: str) -> str:
    return host if _HOST.fullmatch(host) and ".." not in host else ""


def _own_address(request: Request) -> str:
    host, port = request.scope.get("server") or ("127.0.0.1", None)
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def _last(values: str | None) -> str:
    # Each proxy appends; only the entry of the nearest one, which we trust, is not hearsay.
    return (values or "").rpartition(",")[2].strip()
