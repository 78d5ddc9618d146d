"""Tokens of links: whatever was not signed here is refused, and nothing personal is in them."""

from __future__ import annotations

import base64
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.domain.links import LinkSigner
from notifier.errors import LinkError

SIGNER = LinkSigner(b"test-" * 10)
IDS = st.integers(min_value=0, max_value=2**63 - 1)
TOPICS = st.from_regex(r"[a-z]{1,12}(-[a-z]{1,12}){0,3}", fullmatch=True)


@given(IDS, TOPICS)
def test_a_token_says_what_was_signed(address_id: int, topic: str) -> None:
    assert SIGNER.read(SIGNER.token(address_id, topic)) == (address_id, topic)


@given(IDS, TOPICS, st.data())
def test_a_token_with_any_changed_byte_is_refused(
    address_id: int, topic: str, data: st.DataObject
) -> None:
    token = SIGNER.token(address_id, topic)
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(LinkError):
        SIGNER.read(base64.urlsafe_b64encode(raw).rstrip(b"=").decode())


@given(st.text(max_size=300))
def test_any_text_is_refused_without_another_error(text: str) -> None:
    with pytest.raises(LinkError):
        SIGNER.read(text)


def test_a_token_of_another_secret_is_refused() -> None:
    with pytest.raises(LinkError):
        SIGNER.read(LinkSigner(b"other" * 10).token(1, "tax-policy"))


def test_a_cut_token_is_refused() -> None:
    token = SIGNER.token(1, "tax-policy")
    for length in range(len(token)):
        with pytest.raises(LinkError):
            SIGNER.read(token[:length])


def test_a_return_path_survives_capitals_and_is_no_link() -> None:
    message = uuid.UUID("01a209c6-e4aa-737e-9795-258fef616c04")
    tag = SIGNER.bounce_tag(message)
    assert SIGNER.read_bounce_tag(tag.upper()) == message
    with pytest.raises(LinkError):
        SIGNER.read_bounce_tag(("0" if tag[0] != "0" else "1") + tag[1:])
    with pytest.raises(LinkError):
        SIGNER.read(tag)
