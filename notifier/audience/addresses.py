"""Cells as e-mail addresses. Nothing is guessed that could send a notice to somebody else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from email_validator import EmailNotValidError, validate_email

from notifier.audience.cells import CellError, as_text

_SEPARATORS = re.compile(r"[\s;,/|]+")
_USUAL = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9_+-]|\.(?=[A-Za-z0-9_+-])){0,63}"
    r"@((?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24})"
)
_TYPOS = {
    "gmail.con": "gmail.com",
    "gmail.co": "gmail.com",
    "gmail.cm": "gmail.com",
    "gmail.om": "gmail.com",
    "gmail.vn": "gmail.com",
    "gmail.com.vn": "gmail.com",
    "gmai.com": "gmail.com",
    "gmial.com": "gmail.com",
    "gamil.com": "gmail.com",
    "gmaill.com": "gmail.com",
    "gmal.com": "gmail.com",
    "gmail.comm": "gmail.com",
    "gnail.com": "gmail.com",
    "gmil.com": "gmail.com",
    "email.con": "email.com",
    "yaho.com": "yahoo.com",
    "yahoo.con": "yahoo.com",
    "yahooo.com": "yahoo.com",
    "yhoo.com": "yahoo.com",
    "yahoo.co": "yahoo.com",
    "yahoo.comvn": "yahoo.com.vn",
    "yahoo.con.vn": "yahoo.com.vn",
    "hotmial.com": "hotmail.com",
    "hotmail.con": "hotmail.com",
    "hotmai.com": "hotmail.com",
    "hotmal.com": "hotmail.com",
    "outlok.com": "outlook.com",
    "outlook.con": "outlook.com",
    "iclou.com": "icloud.com",
    "icloud.con": "icloud.com",
}
_MAX_ADDRESSES = 10
_MAX_PARTS = 40
_MAX_ADDRESS_CHARS = 254
_BRACKETED = re.compile(r"<([^<>]*)>|([^<>\s;,/|]+)")
_QUOTES = "'\"“”‘’()"
# Ends that no domain has, and what was meant; a slip of the finger in a domain that is in no list.
_WRONG_ENDS = {".con": ".com", ".cmo": ".com", ".ocm": ".com", ".comm": ".com", ".vnn": ".vn"}


def address(value: str) -> str:
    """Return one address, its domain in small letters and ASCII.

    Raise CellError, with a hint for a well-known slip.
    """
    match = _USUAL.fullmatch(value)
    if match is None or len(value) > _MAX_ADDRESS_CHARS:
        try:
            checked = validate_email(
                value,
                check_deliverability=False,
                allow_smtputf8=False,
                test_environment=True,
                strict=True,
            )
        except EmailNotValidError as error:
            raise CellError(
                "address",
                "Địa chỉ thư điện tử không hợp lệ. Hãy sửa lại.",
                f"The address is not valid: {error} Correct it.",
            ) from None
        value = checked.ascii_email or checked.normalized
    name, _, domain = value.rpartition("@")
    domain = domain.lower()
    end = domain[domain.rfind(".") :]
    better = _TYPOS.get(domain) or (
        domain.removesuffix(end) + _WRONG_ENDS[end] if end in _WRONG_ENDS else None
    )
    if better:
        raise CellError(
            "address-typo",
            f"Có phải ý bạn là {name}@{better}? Hãy sửa lại địa chỉ.",
            f"Did you mean {name}@{better}? Correct the address.",
        )
    return f"{name}@{domain}"


def _is_plain(value: str) -> bool:
    """Say whether a cell is one address as most are: nothing to correct, nothing to suspect."""
    if not _USUAL.fullmatch(value) or len(value) > _MAX_ADDRESS_CHARS:
        return False
    domain = value[value.rfind("@") + 1 :]
    return (
        domain.islower() and domain not in _TYPOS and domain[domain.rfind(".") :] not in _WRONG_ENDS
    )


def _parts(found: str) -> Iterator[str]:
    """Yield what may be an address.

    In "Công ty A <a@example.test>" it stands between the brackets, and the words before them are a
    name.
    """
    bracketed = "<" in found
    for match in _BRACKETED.finditer(found):
        inside, outside = match.groups()
        for part in _SEPARATORS.split(inside) if outside is None else [outside]:
            bare = part.lstrip(_QUOTES).removeprefix("mailto:").rstrip(_QUOTES + ".")
            if any(map(str.isalnum, bare)) and (outside is None or not bracketed or "@" in bare):
                yield bare


def addresses(value: Any) -> tuple[list[str], list[tuple[str, CellError]]]:
    """Return a cell's good addresses, each once, and the bad ones with their errors.

    Raise CellError when there is none at all.
    """
    found = as_text(value)
    if not found:
        raise CellError(
            "address-missing",
            "Thiếu địa chỉ thư điện tử. Hãy điền vào.",
            "The e-mail address is missing. Fill it in.",
        )
    if _is_plain(found):
        return [found], []
    parts = list(islice(_parts(found), _MAX_PARTS + 1))
    if len(parts) > _MAX_PARTS:
        raise CellError(
            "addresses",
            "Ô này không phải danh sách địa chỉ. Hãy sửa lại.",
            "This cell is no list of addresses. Correct it.",
        )
    good: dict[str, str] = {}
    bad: list[tuple[str, CellError]] = []
    for part in parts:
        try:
            each = address(part)
        except CellError as error:
            bad.append((part, error))
        else:
            good.setdefault(each.lower(), each)
    if len(good) > _MAX_ADDRESSES:
        raise CellError(
            "addresses",
            f"Quá {_MAX_ADDRESSES} địa chỉ trong một ô. Hãy bớt đi.",
            f"More than {_MAX_ADDRESSES} addresses in one cell. Remove some.",
        )
    if not parts:
        raise CellError(
            "address",
            "Địa chỉ thư điện tử không hợp lệ. Hãy sửa lại.",
            "The address is not valid. Correct it.",
        )
    return list(good.values()), bad
