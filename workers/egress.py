"""What a process may connect to: an allow-list of hosts, and no address inside our own network.

Installed once, in a process that does nothing but send (``alerts.sender``): every name it resolves
and every address it connects to passes here, whichever library does it. The address is checked where
it is connected to, so that a second answer of the name server changes nothing.
"""

import fnmatch
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

#: bytes one delivery may receive
MAX_RECEIVED_BYTES: Final = 65_536
_NEVER: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32")
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Blocked(OSError):
    """A connection the allow-list does not permit."""


@dataclass(frozen=True, slots=True)
class Egress:
    """Host names (globs) that may be connected to, and networks that may although they are private."""

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = field(default=())

    @classmethod
    def parse(cls, entries: Sequence[str]) -> "Egress":
        """Read entries such as ``hooks.example.com``, ``*.example.com``, ``10.1.2.0/24``."""
        hosts: list[str] = []
        networks: list[Network] = []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                hosts.append(entry.casefold().rstrip("."))
        return cls(tuple(hosts), tuple(networks))

    def allows_host(self, host: str) -> bool:
        """Whether the name *host* may be resolved; an address in any notation is judged later."""
        name = host.casefold().rstrip(".")
        if any(fnmatch.fnmatchcase(name, glob) for glob in self.hosts):
            return True
        return _is_numeric(name) and bool(self.networks)

    def allows_address(self, text: str) -> bool:
        """Whether the address *text* may be connected to."""
        try:
            address = _innermost(ipaddress.ip_address(text.partition("%")[0]))
        except ValueError:
            return False
        if any(address in network for network in _NEVER):
            return False
        if any(address in network for network in self.networks):
            return True
        return bool(self.hosts) and address.is_global and not address.is_multicast


def _is_numeric(name: str) -> bool:
    """Whether *name* is an address in one of the notations ``inet_aton`` or IPv6 knows."""
    if ":" in name:
        return True
    try:
        socket.inet_aton(name)
    except OSError:
        return False
    return True


def _innermost(address: Address) -> Address:
    """Return the IPv4 address an IPv6 one stands for, else *address*."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is not None:
            return inner
        if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


class Meter:
    """Counts what a delivery receives; beyond the limit it ends."""

    def __init__(self, limit_bytes: int = MAX_RECEIVED_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.received_bytes = 0

    def add(self, count: int) -> None:
        """Count *count* bytes more."""
        self.received_bytes += count
        if self.received_bytes > self.limit_bytes:
            raise Blocked(f"the answer is longer than {self.limit_bytes:,} bytes")


def install(egress: Egress, meter: Meter) -> None:
    """Put *egress* and *meter* into this process's sockets, for good."""
    resolve: Any = socket.getaddrinfo
    plain: Any = socket.socket

    def getaddrinfo(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host or "")
        if not name or not egress.allows_host(name):
            raise Blocked(f"{name[:100]!r} is not in ARQSCOPE_ALERT_HOSTS")
        found = resolve(host, port, *args, **more)
        allowed = [row for row in found if egress.allows_address(str(row[4][0]))]
        if not allowed:
            raise Blocked(f"{name[:100]!r} is an address that must not be connected to")
        return allowed

    def checked(method: Any) -> Any:
        def connect(self: Any, address: Any, *args: Any) -> Any:
            is_internet = self.family in (socket.AF_INET, socket.AF_INET6)
            if not is_internet or not egress.allows_address(str(address[0])):
                raise Blocked(f"{str(address)[:100]} must not be connected to")
            return method(self, address, *args)

        return connect

    def refused(*_: Any, **__: Any) -> Any:
        raise Blocked("datagrams must not be sent")

    def metered(method: Any) -> Any:
        def receive(self: Any, *args: Any, **more: Any) -> Any:
            got = method(self, *args, **more)
            meter.add(got if isinstance(got, int) else len(got))
            return got

        return receive

    socket.getaddrinfo = getaddrinfo
    for name in ("gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, refused)
    for name in ("connect", "connect_ex"):
        setattr(plain, name, checked(getattr(plain, name)))
    for name in ("sendto", "sendmsg"):
        setattr(plain, name, refused)
    for name in ("recv", "recv_into"):
        setattr(plain, name, metered(getattr(plain, name)))
        setattr(ssl.SSLSocket, name, metered(getattr(ssl.SSLSocket, name)))
