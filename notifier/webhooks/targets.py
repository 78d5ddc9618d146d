"""Where a webhook may lead: the address of a receiver is read, resolved and checked before a connection is opened to it.

Whoever names a URL could else make this service call machines inside our own network (CWE-918). A name is resolved once, every address it
has is checked, and the connection goes to a checked address and nowhere else, so that a name that answers differently the next time
(DNS rebinding) gains nothing.
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
# IPv4 inside IPv6: where it leads is decided by a machine on the way.
_TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


class TargetError(Exception):
    """A receiver must not or cannot be called now; the text is one phrase without the URL."""


def read_url(url: str, *, private: bool) -> httpx2.URL:
    """Return the URL of a receiver; raise WebhookError when it can be none. `private` allows http and private addresses."""
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
            fix="What is told is personal data; let the receiver speak TLS.",
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
    """Say whether an address is one of the open internet (IANA's special-purpose registries), and no tunnel into another."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if (
            address.sixtofour is not None
            or address.teredo is not None
            or any(address in network for network in _TRANSLATED)
        ):
            return False
        if address.is_site_local:
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
    """Return the addresses of the receiver's host, best first; raise TargetError when there are none or one of them is private.

    May take as long as the system's resolver has patience.
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
