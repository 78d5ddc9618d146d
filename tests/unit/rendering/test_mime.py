"""The encodings, judged by Python's email package and by the limits of the standards."""

from __future__ import annotations

import email
from base64 import b64decode
from email import policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from quopri import decodestring

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from notifier.errors import RenderError
from notifier.rendering import mime

any_text = st.text(st.characters(), max_size=400)
# What trips encoders: dots at the start of a line, spaces at its end, "=", long runs without a
# space, every kind of line break.
nasty_text = st.text(st.sampled_from(list("..  ==\t\r\n-_aFế😀\x00\x0b\u2028\ud800")), max_size=400)


def parsed(header: bytes) -> EmailMessage:
    message = email.message_from_bytes(header + b"\r\n", policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def assert_fit_for_the_wire(body: bytes, longest: int = 76) -> None:
    body.decode("ascii")
    assert b"\r" not in body.replace(b"\r\n", b"")
    assert b"\n" not in body.replace(b"\r\n", b"")
    for line in body.split(b"\r\n"):
        assert len(line) <= longest
        assert not line.startswith(b".")
        assert not line.endswith((b" ", b"\t"))


@given(st.one_of(any_text, nasty_text))
@example("." * 200)
@example("x" * 75 + " ")
@example("x" * 75 + ".")
def test_both_quoted_printable_ways_decode_to_the_text_and_fit_the_wire(text: str) -> None:
    for encode in (mime.quoted_printable, mime.quick_quoted_printable):
        piece = encode(text)
        assert_fit_for_the_wire(piece)
        assert decodestring(piece).decode() == mime.body_text(text).replace("\n", "\r\n")


@given(st.lists(st.one_of(any_text, nasty_text), max_size=6))
def test_pieces_join_in_any_order(texts: list[str]) -> None:
    body = b"".join(mime.quick_quoted_printable(text) for text in texts)
    assert_fit_for_the_wire(body)
    assert decodestring(body).decode() == "".join(mime.body_text(text) for text in texts).replace(
        "\n", "\r\n"
    )


@given(st.one_of(any_text, nasty_text))
def test_base64_decodes_to_the_text_with_crlf(text: str) -> None:
    body = mime.base64_body(text)
    assert_fit_for_the_wire(body)
    assert b64decode(body).decode() == mime.body_text(text).replace("\n", "\r\n")


@given(st.one_of(any_text, nasty_text))
@example(
    "Thông báo về tình hình nghĩa vụ thuế của người nộp thuế (tháng 11 năm 2026) và các khoản "
    "còn phải nộp"
)
@example("a" * 300)
@example("=?utf-8?B?QUJD?=")
def test_a_subject_survives_the_parser(text: str) -> None:
    header = mime.subject(text)
    assert_fit_for_the_wire(header.removesuffix(b"\r\n"), 76)
    assert parsed(header)["Subject"] == mime.header_text(text, mime.MAX_SUBJECT_CHARS)
    assert parsed(header).keys() == ["Subject"]


def decoded_name(header: bytes) -> str:
    """Decode a display name as RFC 2047 section 6.2 says.

    The space between two encoded words is no part of the text.

    The newer parser of Python 3.11 keeps that space inside addresses (not in subjects), so
    email.header is the judge here.
    """
    value = header.decode("ascii").removeprefix("To: ").replace("\r\n", "")
    return str(make_header(decode_header(value.rpartition("<")[0].strip())))


@given(st.one_of(any_text, nasty_text, st.text("aB1.,;:<>@\"'()[]\\=?_ ", max_size=60)))
@example(
    "Công ty TNHH Một thành viên Thương mại và Dịch vụ Xuất nhập khẩu Sông Hồng Xanh Việt Nam - "
    "Chi nhánh Hà Nội, phòng 1"
)
def test_a_name_survives_the_parser_beside_its_address(name: str) -> None:
    header = mime.mailbox("To", name, "ketoan+thue@doanhnghiep.example")
    assert_fit_for_the_wire(header.removesuffix(b"\r\n"), 78)
    message = parsed(header)
    assert message.keys() == ["To"]
    (address,) = message["To"].addresses
    assert address.addr_spec == "ketoan+thue@doanhnghiep.example"
    assert decoded_name(header) == mime.header_text(name, mime.MAX_NAME_CHARS)


def test_line_breaks_and_direction_marks_in_a_name_become_spaces() -> None:
    assert (
        mime.header_text("An\r\nBcc: x@example.test\u202e\u2028Bình\x00", 120)
        == "An Bcc: x@example.test Bình"
    )


def test_decomposed_letters_are_composed() -> None:
    assert mime.header_text("Ha\u0300 No\u0323\u0302i", 120) == "Hà Nội"


def test_a_name_without_end_is_cut_with_a_mark() -> None:
    assert mime.header_text("Hà " * 1000, 120) == ("Hà " * 40)[:119].rstrip() + "…"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "an",
        "an@",
        "@example.test",
        "an@example.test\r\nBcc: b@example.test",
        "an b@example.test",
        "<an@example.test>",
        "ân@example.test",
        "an@ví-dụ.example",
        "an@example.test,b@example.test",
        "a" * 65 + "@example.test",
        "an@example.test.",
    ],
)
def test_an_address_that_is_no_plain_address_is_refused_without_showing_it(address: str) -> None:
    with pytest.raises(RenderError) as caught:
        mime.mailbox("To", "An", address)
    assert len(address) < len("an@x") or address not in str(caught.value)
