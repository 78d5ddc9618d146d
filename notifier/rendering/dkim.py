"""DKIM (RFC 6376, RFC 8301).

A signature by which the receiver knows that a mail comes from our domain and was not changed.

Relaxed canonicalisation of header and body, RSA with SHA-256. What a reader relies on is signed,
and signed once more than it occurs, so that nobody can add a second From or Subject to a mail of
ours (RFC 6376 section 8.15). The exact bytes on the wire are signed, before dots are doubled.
"""

from __future__ import annotations

import base64
import hashlib
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from notifier.errors import SettingsError

# RFC 8301 section 3.2: signers use at least 2048 bits. Longer keys do not fit a DNS answer, and
# cost four times the time.
KEY_BITS = 2048
_LEAST_BITS = 2048
SIGNED = (
    "from",
    "to",
    "reply-to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "content-type",
    "content-language",
    "list-id",
    "list-unsubscribe",
    "list-unsubscribe-post",
    "feedback-id",
    "auto-submitted",
)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_BLANKS = re.compile(rb"[ \t]+")
_LINE_CHARS = 72
_TXT_CHARS = 255


class DkimSigner:
    """Signs mail for one domain with one key."""

    def __init__(self, key: rsa.RSAPrivateKey, *, domain: str, selector: str) -> None:
        """Sign as `domain`, whose DNS holds the public key under `selector`.

        Raise SettingsError for what cannot be one.
        """
        for value, what in ((domain, "NOTIFIER_DKIM_DOMAIN"), (selector, "NOTIFIER_DKIM_SELECTOR")):
            if not all(_LABEL.fullmatch(label) for label in value.split(".")):
                raise SettingsError(
                    f"{what} is not a name for DNS.",
                    fix="Use small letters, digits and hyphens, such as notices-2026.",
                )
        if key.key_size < _LEAST_BITS:
            raise SettingsError(
                f"The DKIM key has {key.key_size} bits.",
                fix=f"Make one of {KEY_BITS}: notifier dkim create SELECTOR",
            )
        self.domain = domain
        self.selector = selector
        self._key = key
        self._start = (
            f"v=1; a=rsa-sha256; c=relaxed/relaxed; d={domain};\r\n s={selector}; t=".encode()
        )

    @property
    def record_name(self) -> str:
        """The name of the TXT record that receivers ask for."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def record(self) -> str:
        """The TXT record: strings of at most 255 characters, as a zone file has them."""
        public = self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        value = f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"
        return " ".join(
            f'"{value[at : at + _TXT_CHARS]}"' for at in range(0, len(value), _TXT_CHARS)
        )

    def covers(self, address: str) -> bool:
        """Say whether a From of this address is aligned with the signature (RFC 7489, 3.1.1)."""
        host = address.rpartition("@")[2].lower()
        return host == self.domain or host.endswith("." + self.domain)

    def refusal(self, address: str) -> str:
        """Return the sentence that says why mail from this address must not be signed.

        "" when it may.
        """
        return (
            ""
            if self.covers(address)
            else f"Mail is signed for {self.domain}, "
            f"which the sender's address {address} does not belong to."
        )

    def sign(self, mail: bytes, now: float) -> bytes:
        """Return the mail with its signature in front; `now` is epoch seconds."""
        head, _, body = mail.partition(b"\r\n\r\n")
        found: dict[str, list[bytes]] = {}
        for line in head.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n"):
            title, _, content = line.partition(b":")
            found.setdefault(title.strip().lower().decode("ascii", "replace"), []).append(content)
        names: list[str] = []
        signed: list[bytes] = []
        for name in SIGNED:
            # From the last one upwards, as a verifier reads them (RFC 6376 section 5.4.2).
            contents = found.get(name, [])
            signed += [_header(name, each) for each in reversed(contents)]
            names += [name] * (len(contents) + 1)
        digest = base64.b64encode(hashlib.sha256(_body(body)).digest())
        value = b"%b%d;\r\n h=%b;\r\n bh=%b;\r\n b=" % (
            self._start,
            int(now),
            _folded(":".join(names)),
            digest,
        )
        own = _header("dkim-signature", value.replace(b"\r\n", b"")).removesuffix(b"\r\n")
        raw = self._key.sign(b"".join((*signed, own)), padding.PKCS1v15(), hashes.SHA256())
        text = base64.b64encode(raw)
        rows = b"\r\n ".join(text[at : at + _LINE_CHARS] for at in range(0, len(text), _LINE_CHARS))
        return b"DKIM-Signature: %b%b\r\n%b" % (value, rows, mail)


def _folded(names: str) -> bytes:
    """Return the list of names with folds behind colons, no line longer than 78."""
    rows, row = [], ""
    for part in names.split(":"):
        piece = part + ":"
        if len(row) + len(piece) > _LINE_CHARS:
            rows.append(row)
            row = ""
        row += piece
    return "\r\n ".join([*rows, row]).removesuffix(":").encode()


def _header(name: str, value: bytes) -> bytes:
    """Return an unfolded header as relaxed canonicalisation has it (RFC 6376 section 3.4.2)."""
    return name.encode() + b":" + _BLANKS.sub(b" ", value).strip(b" \t") + b"\r\n"


def _body(body: bytes) -> bytes:
    """Return a body as relaxed canonicalisation has it (RFC 6376 section 3.4.4)."""
    # Base64 and most quoted-printable hold none of these; looking is far quicker than replacing.
    if b"  " in body or b"\t" in body:
        body = _BLANKS.sub(b" ", body)
    if b" \r\n" in body:
        body = body.replace(b" \r\n", b"\r\n")
    body = body.rstrip(b"\r\n")
    return body + b"\r\n" if body else b""


def read_key(pem: bytes, where: str) -> rsa.RSAPrivateKey:
    """Return the RSA key in a PEM file's content; raise SettingsError that names `where`."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise SettingsError(
            f"{where} is not an RSA key without a password.",
            fix="Make one with: notifier dkim create SELECTOR",
        )
    return key


def new_key() -> bytes:
    """Return a new key as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
