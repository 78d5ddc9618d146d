"""Whatever the data, the bytes are a valid mail that says what the template says."""

from __future__ import annotations

import email
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notifier.errors import RenderError, TemplateError
from notifier.rendering import mime
from notifier.rendering.blueprint import Blueprint, Letter
from notifier.rendering.catalogue import Template, TopicInfo, load_template
from tests.unit.rendering.conftest import SENDER, TOKEN, MakeBlueprint, MakeLetter

any_text = st.one_of(
    st.text(st.characters(), max_size=120),
    st.text(
        st.sampled_from(list("..  =\t\r\n-<>&\"'ếĐ😀\x00\x7f\u2028\ud800e\u0301")), max_size=120
    ),
    st.sampled_from(
        [
            "A" * 3000,
            "Ế" * 3000,
            "x" * 73 + ".",
            "\r\nBcc: x@example.test\r\n\r\nbody",
            ".\r\n.\r\nQUIT\r\n",
        ]
    ),
)
amount = st.integers(-(10**15), 10**15)
day = st.dates().map(str)
lines = st.lists(
    st.fixed_dictionaries(
        {"subsection_name": any_text, "amount": amount, "due_date": day},
        optional={
            "subsection_code": any_text,
            "chapter_code": any_text,
            "decision_number": any_text,
            "decision_date": day,
        },
    ),
    max_size=5,
)
debt_data = st.fixed_dictionaries(
    {"total_debt": amount, "amount_payable": amount, "lines": lines, "period": day},
    optional=dict.fromkeys(
        ("notice_number", "address", "managing_office", "officer", "officer_phone"), any_text
    ),
)


@pytest.fixture(scope="module")
def template(templates: Path) -> Template:
    return load_template(templates, "debt-notice")


@pytest.fixture(scope="module")
def blueprint(template: Template, make_blueprint: MakeBlueprint) -> Blueprint:
    # Any data, also what makes a mail beyond the limit of size: that one has tests of its own.
    return make_blueprint(template, max_bytes=64 << 20)


def parse(raw: bytes) -> EmailMessage:
    message = email.message_from_bytes(raw, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def assert_valid_mail(raw: bytes) -> EmailMessage:
    """Check what every mail must be on the wire, and return it parsed."""
    raw.decode("ascii")
    assert raw.endswith(b"\r\n")
    bare = raw.replace(b"\r\n", b"")
    assert b"\r" not in bare
    assert b"\n" not in bare
    assert b"\x00" not in raw
    headers, _, body = raw.partition(b"\r\n\r\n")
    assert all(len(line) <= 200 for line in headers.split(b"\r\n"))
    for line in body.split(b"\r\n"):
        assert len(line) <= 78
        assert not line.startswith(b".")
    return parse(raw)


def part(message: EmailMessage, kind: str) -> str:
    found = message.get_body((kind,))
    assert isinstance(found, EmailMessage)
    assert not found.defects
    return str(found.get_content()).replace("\r\n", "\n")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=debt_data, name=any_text, tax_code=st.text("0123456789-", max_size=14))
def test_any_data_makes_a_mail_that_reads_back_the_same(
    blueprint: Blueprint, make_letter: MakeLetter, data: dict[str, Any], name: str, tax_code: str
) -> None:
    letter = make_letter(blueprint.template, data=data, to_name=name, tax_code=tax_code)
    preview = blueprint.preview(letter)
    message = assert_valid_mail(preview.raw)
    assert message["Subject"] == preview.subject
    (to,) = message["To"].addresses
    assert to.addr_spec == letter.to_address
    assert part(message, "plain") == preview.text
    assert part(message, "html") == preview.html
    for value in (name, *(text for text in data.values() if isinstance(text, str))):
        # The month is written out in words.
        assert value == data["period"] or mime.body_text(value) in preview.text
    assert message.keys() == parse(blueprint.fill(make_letter(blueprint.template))).keys()


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(title=any_text)
def test_a_subject_made_of_data_reads_back_the_same(
    templates: Path, make_blueprint: MakeBlueprint, make_letter: MakeLetter, title: str
) -> None:
    blueprint = make_blueprint(load_template(templates, "tax-policy"))
    raw = blueprint.fill(make_letter(blueprint.template, data={"policy_title": title}))
    expected = mime.header_text(f"Chính sách thuế mới: {title}", mime.MAX_SUBJECT_CHARS)
    assert assert_valid_mail(raw)["Subject"] == expected
    assert expected == unicodedata.normalize("NFC", expected)


def test_three_hundred_lines_fit(blueprint: Blueprint, make_letter: MakeLetter) -> None:
    line = {"subsection_name": "Thuế giá trị gia tăng", "amount": 1_000, "due_date": "2026-10-30"}
    raw = blueprint.fill(make_letter(blueprint.template, data={"lines": [line] * 300}))
    assert part(assert_valid_mail(raw), "html").count("Thuế giá trị gia tăng") == 300


def test_too_many_lines_are_an_error(
    template: Template, make_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    line = {"subsection_name": "Thuế giá trị gia tăng", "amount": 1_000, "due_date": "2026-10-30"}
    with pytest.raises(RenderError, match=r"debt-notice.*larger than 256 kB"):
        make_blueprint(template).fill(make_letter(template, data={"lines": [line] * 5_000}))


def test_the_headers_are_those_of_bulk_sender_rules(
    blueprint: Blueprint, make_letter: MakeLetter
) -> None:
    message = parse(blueprint.fill(make_letter(blueprint.template)))
    assert str(message["From"]) == "Thuế thành phố Hà Nội <thongbao@notices.example.test>"
    assert str(message["Reply-To"]) == "Thuế thành phố Hà Nội <hotro@notices.example.test>"
    assert message["Date"].datetime == datetime(2026, 11, 23, 2, 5, 9, tzinfo=UTC)
    assert message["Date"].datetime.utcoffset() == timedelta(hours=7)
    expected = {
        "Subject": "Thông báo về tình hình nghĩa vụ thuế (tháng 11 năm 2026)",
        "Message-ID": "<0b0e7a4e-6f0e-4d5c-9f39-6c1d1b8f2a10@notices.example.test>",
        "List-Id": "Tình hình nghĩa vụ thuế <debt-notice.notices.example.test>",
        "Feedback-ID": "2026-11:debt-notice:campaign:hanoi",
        "Auto-Submitted": "auto-generated",
        "Precedence": "bulk",
        "X-Auto-Response-Suppress": "OOF, AutoReply, RN, NRN",
        "Content-Language": "vi",
        "MIME-Version": "1.0",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        "List-Unsubscribe": f"<https://thongbao.example.test/u/{TOKEN}>, "
        f"<mailto:unsubscribe@notices.example.test?subject={TOKEN}>",
    }
    assert {name: " ".join(str(message[name]).split()) for name in expected} == expected
    assert [each.get_content_type() for each in message.iter_parts()] == ["text/plain", "text/html"]
    assert [each["Content-Transfer-Encoding"] for each in message.iter_parts()] == [
        "base64",
        "quoted-printable",
    ]
    every = message.keys()
    assert len(every) == len({name.casefold() for name in every})


def test_a_single_notice_is_not_marked_as_bulk(
    template: Template, make_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    assert (
        parse(make_blueprint(template, bulk=False).fill(make_letter(template)))["Precedence"]
        is None
    )


def test_the_same_letter_gives_the_same_bytes(
    blueprint: Blueprint, template: Template, make_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    letter = make_letter(template)
    first = blueprint.fill(letter)
    blueprint.fill(make_letter(template, to_name="Ai khác", date=datetime(2027, 1, 1, tzinfo=UTC)))
    assert blueprint.fill(letter) == first
    assert make_blueprint(template).fill(letter) == first


def test_what_was_remembered_is_bounded(blueprint: Blueprint, make_letter: MakeLetter) -> None:
    letters = [
        make_letter(blueprint.template, to_name=f"Công ty {number}") for number in range(3_000)
    ]
    assert len({blueprint.fill(letter) for letter in letters}) == len(letters)


def test_no_data_can_forge_a_boundary(blueprint: Blueprint, make_letter: MakeLetter) -> None:
    boundary = parse(blueprint.fill(make_letter(blueprint.template))).get_boundary()
    assert boundary is not None
    forged = f"\r\n--{boundary}--\r\n"
    raw = blueprint.fill(make_letter(blueprint.template, to_name=forged, data={"address": forged}))
    assert raw.count(b"\r\n--" + boundary.encode()) == 3
    assert len(list(assert_valid_mail(raw).iter_parts())) == 2


CHANGES: list[Mapping[str, Any]] = [
    {"to_address": "an@example.test\r\nBcc: bi-mat@example.test"},
    {"unsubscribe_token": "bi-mat\r\n"},
    {"unsubscribe_token": ""},
    {"date": datetime(2026, 1, 1)},
    {"data": {"total_debt": "bi-mat"}},
    {"data": {"total_debt": None}},
    {"data": {"as_of": "bi-mat"}},
    {"data": {"lines": ["bi-mat"]}},
    {"data": {"lines": 5}},
    {"data": {"lines": [{"amount": 5, "due_date": "2026-01-01"}]}},
    {
        "data": {
            "lines": [{"subsection_name": "bi-mat", "amount": "bi-mat", "due_date": "2026-01-01"}]
        }
    },
]


@pytest.mark.parametrize("changes", CHANGES)
def test_what_cannot_be_written_is_an_error_without_personal_data(
    blueprint: Blueprint, make_letter: MakeLetter, changes: Mapping[str, Any]
) -> None:
    with pytest.raises(RenderError) as caught:
        blueprint.fill(make_letter(blueprint.template, **changes))
    assert "The template 'debt-notice' (vi, " in str(caught.value)
    assert "bi-mat" not in str(caught.value)


def test_a_date_of_any_zone_is_written_in_vietnam_time(
    blueprint: Blueprint, make_letter: MakeLetter
) -> None:
    date = datetime(2026, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    raw = blueprint.fill(make_letter(blueprint.template, date=date))
    assert b"\r\nDate: Fri, 01 Jan 2027 11:30:00 +0700\r\n" in raw


def test_a_sender_that_would_break_a_header_is_refused(
    template: Template, make_blueprint: MakeBlueprint
) -> None:
    for changes in (
        {"address": "x@example.test\r\nBcc: y@example.test"},
        {"reply_to": "không@example.test"},
    ):
        with pytest.raises(RenderError, match="cannot be written in a header"):
            make_blueprint(template, sender=replace(SENDER, **changes))
    with pytest.raises(TemplateError, match="mail domain"):
        make_blueprint(template, mail_domain="example.test\r\nX: y")
    with pytest.raises(TemplateError, match="no language 'fr'"):
        make_blueprint(template, language="fr")


def test_names_of_offices_and_topics_are_escaped(
    template: Template, make_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    topic = TopicInfo(
        "debt-notice",
        {"vi": "A & B <c>"},
        statutory=True,
        legal_ground={"vi": "x"},
        description={"vi": "x"},
    )
    blueprint = make_blueprint(
        template,
        topic=topic,
        sender=replace(SENDER, name_vi="Thuế <b>", public_url="https://a.test"),
    )
    preview = blueprint.preview(make_letter(template))
    assert "A &amp; B &lt;c&gt;" in preview.html
    assert "<b>" not in preview.html
    assert "A & B <c>" in preview.text


def test_letters_are_values() -> None:
    letter = Letter(
        UUID(int=1),
        "a@example.test",
        "An",
        "0100023459",
        {},
        TOKEN,
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    with pytest.raises(AttributeError):
        letter.to_name = "B"  # type: ignore[misc]
