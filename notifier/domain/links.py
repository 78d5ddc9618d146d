"""Tokens in links and return paths: signed, without personal data, good for one purpose each.

A token names an address by its number and a topic; only who holds the secret key can make one
(HMAC-SHA256 cut to 128 bits, RFC 2104 section 5). It never expires, because an unsubscribe link
must work for years (RFC 8058 section 6).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import uuid

from notifier.errors import LinkError

_VERSION = b"\x01"
_MAC_BYTES = 16
_ID_BYTES = 8
_MAX_TOKEN_CHARS = 200
_BOUNCE_TAG = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{16})", re.IGNORECASE)


class _Mac:
    """HMAC-SHA256 (RFC 2104) with the key's two blocks hashed beforehand.

    That halves the time of a short message.
    """

    def __init__(self, key: bytes) -> None:
        """Hash the inner and outer blocks of `key`, at most 64 bytes."""
        block = key.ljust(64, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def __call__(self, message: bytes) -> bytes:
        inner = self._inner.copy()
        inner.update(message)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()


class LinkSigner:
    """Makes and checks tokens with keys derived from one secret, a key for each purpose."""

    def __init__(self, secret: bytes) -> None:
        """Derive the keys."""
        self._link_mac = _Mac(hmac.digest(secret, b"notifier/unsubscribe-link", "sha256"))
        self._bounce_mac = _Mac(hmac.digest(secret, b"notifier/return-path", "sha256"))

    def token(self, address_id: int, topic: str) -> str:
        """Return the token that lets the owner of an address choose, beginning with `topic`."""
        body = _VERSION + address_id.to_bytes(_ID_BYTES, "big") + topic.encode()
        mac = self._link_mac(body)[:_MAC_BYTES]
        return base64.urlsafe_b64encode(mac + body).rstrip(b"=").decode()

    def read(self, token: str) -> tuple[int, str]:
        """Return the address's number and the topic of a token.

        Raise LinkError when it is damaged or forged.
        """
        if len(token) > _MAX_TOKEN_CHARS:
            raise LinkError("The link is damaged.")
        try:
            raw = base64.b64decode(
                token.encode("ascii") + b"=" * (-len(token) % 4), altchars=b"-_", validate=True
            )
        except (UnicodeEncodeError, binascii.Error):
            raise LinkError("The link is damaged.") from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        expected = self._link_mac(body)[:_MAC_BYTES]
        if not hmac.compare_digest(mac, expected) or body[:1] != _VERSION:
            raise LinkError("The link is damaged.")
        return int.from_bytes(body[1 : 1 + _ID_BYTES], "big"), body[1 + _ID_BYTES :].decode()

    def bounce_tag(self, message_id: uuid.UUID) -> str:
        """Return what names a message in its return path.

        The same in small and capital letters, for relays that change case.
        """
        mac = self._bounce_mac(message_id.bytes)[:8]
        return f"{message_id.hex}.{mac.hex()}"

    def read_bounce_tag(self, tag: str) -> uuid.UUID:
        """Return the message that a return path names.

        Raise LinkError when it was not made here.
        """
        match = _BOUNCE_TAG.fullmatch(tag)
        if match is None:
            raise LinkError("The return path is damaged.")
        message_id = uuid.UUID(hex=match[1])
        if not hmac.compare_digest(self.bounce_tag(message_id), tag.lower()):
            raise LinkError("The return path is forged.")
        return message_id
