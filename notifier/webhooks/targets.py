"""Where a webhook may lead: a receiver's address is read, resolved and checked before any call.

Whoever names a URL could else make this service call machines inside our own network (CWE-918). A
name is resolved once, every address it has is checked, and the connection goes to a checked address
and nowhere else, so that a name that answers differently the next time (DNS rebinding) gains
nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import httpx2

from notifier.domain.webhooks import WebhookError

_MAX_URL = 2000
_HIGHEST_PORT = 65_535
_PORTS = {"http": 80, "https": 443}
# Where a receiver of the open internet listens; else every port of every host could be probed.
_PUBLIC_PORTS = (443, 8443)
# All that is routed; what lies outside is local, reserved, or IPv4 inside IPv6, whose way is chosen
# by a machine on it.
_UNICAST = ipaddress.ip_network("2000::/3")
# Special-purpose networks (IANA, as of 2025), also those that Python's `is_global` takes for
# global: relays, anycast services and documentation lead to no receiver.
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments (RFC 6890), such as 192.0.0.8
        "192.31.196.0/24",  # AS112 (RFC 7535)
        "192.52.193.0/24",  # AMT relays (RFC 7450)
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.175.48.0/24",  # AS112 (RFC 7534)
        "2001::/23",  # protocol assignments (RFC 2928): Teredo, ORCHID and others
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4 (RFC 3056)
        "2620:4f:8000::/48",  # AS112 (RFC 7534)
        "3fff::/20",  # documentation (RFC 9637)
    )
)


class TargetError(Exception):
    """A receiver must not or cannot be called now; the text is one phrase without the URL."""


def read_url(url: str, *, private: bool) -> httpx2.URL:
    """Return the URL of a receiver; raise WebhookError when it can be none.

    `private` allows http, private addresses and every port.
    """
    try:
        found = httpx2.URL(url)
        host = found.raw_host.decode("ascii")
    except (httpx2.InvalidURL, UnicodeError, TypeError) as error:
        raise WebhookError(
            "The webhook's URL cannot be read.", fix="Write it as https://host/path."
        ) from error
    if (
        found.scheme not in _PORTS
        or not host
        or len(url) > _MAX_URL
        or any(sign.isspace() for sign in url)
    ):
        raise WebhookError(
            "The webhook's URL is not a web address.", fix="Write it as https://host/path."
        )
    if found.userinfo or found.fragment:
        raise WebhookError(
            "The webhook's URL holds a password or a fragment.",
            fix="Leave it out: the signature proves who calls.",
        )
    if found.port is not None and not 0 < found.port <= _HIGHEST_PORT:
        raise WebhookError(
            "The webhook's URL names a port that does not exist.",
            fix="Name the receiver's port, or none.",
        )
    if private:
        return found
    if found.scheme != "https":
        raise WebhookError(
            "The webhook's URL does not begin with https://.",
            fix="Events are personal data; let the receiver speak TLS.",
        )
    if (found.port or _PORTS[found.scheme]) not in _PUBLIC_PORTS:
        raise WebhookError(
            "The webhook's URL names a port that no public receiver has.",
            fix=f"Let it listen on {' or '.join(map(str, _PUBLIC_PORTS))}.",
        )
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return found
    if not is_public(literal):
        raise WebhookError(
            "The webhook's URL leads to a private address.",
            fix="Name a public one, or set NOTIFIER_WEBHOOKS_PRIVATE=true in a closed network.",
        )
    return found


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Say whether an address is of the open internet, and no tunnel into another.

    That is what IANA's special-purpose registries leave over.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address not in _UNICAST:
            return False
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )


def resolve(url: httpx2.URL, *, private: bool) -> list[str]:
    """Return the addresses of the receiver's host, best first.

    Raise TargetError when there are none or one of them is private. May take as long as the
    system's resolver has patience.
    """
    try:
        found = socket.getaddrinfo(
            url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme], type=socket.SOCK_STREAM
        )
    except (OSError, UnicodeError):
        raise TargetError("the host name cannot be resolved") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    check(addresses, private=private)
    return addresses


def check(addresses: Sequence[str], *, private: bool) -> None:
    """Raise TargetError when there is no address, or one that must not be called."""
    if not addresses:
        raise TargetError("the host name cannot be resolved")
    if not private and not all(is_public(ipaddress.ip_address(each)) for each in addresses):
        raise TargetError("the address is private")
