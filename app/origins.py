"""Where a request comes from: the caller behind proxies we trust, the page that sent it, loopback or not."""

import functools
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from app.errors import SettingsError

#: headers a proxy adds; without a configured proxy they show one we do not know of
FORWARDED: Final = ("x-forwarded-for", "forwarded", "x-real-ip")
#: addresses of a X-Forwarded-For that are looked at, from the right
_MAX_HOPS: Final = 32


@dataclass(frozen=True, slots=True)
class Caller:
    """The far end of a request, as far as it can be believed."""

    address: str
    host: str
    secure: bool
    by_unknown_proxy: bool = False  #: it carries a proxy's headers, and that proxy is not trusted


class Proxies:
    """The proxies whose ``X-Forwarded-*`` is believed: addresses and networks, comma separated."""

    def __init__(self, listed: str = "") -> None:
        try:
            self._networks = tuple(
                ipaddress.ip_network(part.strip(), strict=False)
                for part in listed.split(",")
                if part.strip()
            )
        except ValueError as error:
            raise SettingsError(
                f"ARQSCOPE_TRUSTED_PROXIES={listed!r}: {error}; "
                "write addresses or networks, comma separated: 127.0.0.1, 10.0.0.0/8"
            ) from error

    def trust(self, address: str) -> bool:
        """Whether *address* is one of them."""
        if not self._networks:
            return False
        try:
            asked = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(asked, "ipv4_mapped", None) or asked
        return any(mapped in network for network in self._networks)

    def caller(self, peer: str, headers: Mapping[str, str], *, secure: bool) -> Caller:
        """Return who is at the far end of a connection from *peer*; header names in lower case.

        The address is the rightmost one of X-Forwarded-For that is not itself a trusted proxy: what
        stands left of it was written by the caller.
        """
        host = headers.get("host", "")
        if not self.trust(peer):
            strange = any(name in headers for name in FORWARDED)
            return Caller(peer, host, secure, by_unknown_proxy=strange)
        address = peer
        for hop in reversed(headers.get("x-forwarded-for", "").split(",")[-_MAX_HOPS:]):
            candidate = hop.strip().strip("[]")
            if not _is_address(candidate):
                break
            address = candidate
            if not self.trust(candidate):
                break
        proto = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        told = headers.get("x-forwarded-host", "").rpartition(",")[2].strip()
        return Caller(address, told or host, proto == "https" if proto else secure)


def host_name(host: str) -> str:
    """Name part of a Host header: ``[::1]:8009`` and ``localhost:8009`` lose their port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


@functools.lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether *host* is this machine only: as the address of a peer, a name, or what is bound."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_own_page(headers: Mapping[str, str], host: str, listed: frozenset[str]) -> bool | None:
    """Whether a page of this server sent the request; None when no browser says where it is from.

    *host* is what the caller asked for, *listed* foreign ``host:port`` that are welcome.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None:
        try:
            asked = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        if asked in listed:
            return True
        return bool(asked) and asked == host.lower() and site in (None, "same-origin", "none")
    return None if site is None else site in ("same-origin", "none")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
