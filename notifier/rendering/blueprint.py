"""A template compiled for one campaign and language.

Filling it in for a recipient takes tens of microseconds.

What is the same for everybody is encoded once: most headers, and every piece of the HTML that holds
no value. Per recipient remain the few values that differ.
"""

from __future__ import annotations

import hashlib
import re
from binascii import a2b_qp
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from jinja2 import DictLoader
from jinja2.environment import Template as CompiledTemplate

from notifier.errors import RenderError, TemplateError
from notifier.rendering import mime, sandbox, styles
from notifier.rendering.assembly import assemble
from notifier.rendering.fields import LINE_KEY
from notifier.rendering.formats import LOCAL_ZONE
from notifier.rendering.frozen import PARTS, Template, TopicInfo

_TOKEN = re.compile(r"[A-Za-z0-9_.~-]{1,500}")
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Sender:
    """The office that a mail comes from.

    `address` and `reply_to` are mailboxes; `public_url` has no slash at its end.
    """

    name_vi: str
    name_en: str
    address: str
    reply_to: str
    phone: str
    postal_address_vi: str
    postal_address_en: str
    website: str
    public_url: str

    def texts(self, language: str) -> dict[str, str]:
        """Return what templates see as `sender`, in one language."""
        english = language == "en"
        return {
            "name": self.name_en if english else self.name_vi,
            "address": self.address,
            "reply_to": self.reply_to,
            "phone": self.phone,
            "postal_address": self.postal_address_en if english else self.postal_address_vi,
            "website": self.website,
        }


@dataclass(frozen=True, slots=True)
class Letter:
    """What differs from one recipient to the next. `data` holds JSON values; `date` is aware."""

    message_id: UUID
    to_address: str
    to_name: str
    tax_code: str
    data: Mapping[str, Any]
    unsubscribe_token: str
    date: datetime


@dataclass(frozen=True, slots=True)
class Preview:
    """One mail as people and tests look at it; `raw` is what `fill` returns."""

    subject: str
    text: str
    html: str
    raw: bytes


def compile_blueprint(
    template: Template,
    *,
    language: str,
    sender: Sender,
    topic: TopicInfo,
    bulk: bool,
    feedback_id: str,
    mail_domain: str,
    max_bytes: int = sandbox.MAX_OUTPUT_BYTES,
    max_seconds: float = sandbox.MAX_RENDER_SECONDS,
) -> Blueprint:
    """Compile a template for one language and sender.

    `bulk` adds "Precedence: bulk" (campaigns, not single notices); `feedback_id` is the Feedback-ID
    header; `mail_domain` stands in Message-ID, List-Id and the unsubscribe mailbox. A mail larger
    than `max_bytes` or slower than `max_seconds` is a RenderError. Raises TemplateError when the
    texts do not compile, RenderError when the sender cannot be written in a header.
    """
    if language not in template.languages:
        raise TemplateError(f"The template '{template.name}' has no language '{language}'.")
    if not _DOMAIN.fullmatch(mail_domain):
        raise TemplateError(
            "The mail domain is not a domain name.", fix="Correct NOTIFIER_MAIL_DOMAIN."
        )
    return Blueprint(
        template, language, sender, topic, bulk, feedback_id, mail_domain, max_bytes, max_seconds
    )


class Blueprint:
    """Turns letters into the bytes of mails.

    Made by `compile_blueprint`, safe to share between threads.
    """

    def __init__(
        self,
        template: Template,
        language: str,
        sender: Sender,
        topic: TopicInfo,
        bulk: bool,  # noqa: FBT001 - only compile_blueprint calls this
        feedback_id: str,
        mail_domain: str,
        max_bytes: int,
        max_seconds: float,
    ) -> None:
        """Compile the parts and encode what is the same for everybody."""
        self.template = template
        self.language = language
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        constants: dict[str, str | Mapping[str, str]] = {
            "sender": sender.texts(language),
            "topic": {
                "code": topic.code,
                "name": topic.name[language],
                "legal_ground": topic.legal_ground[language],
                "description": topic.description[language],
                "statutory": "yes" if topic.statutory else "",
            },
            "language": language,
            "public_url": sender.public_url,
            "verify_url": f"{sender.public_url}/kiem-tra",
        }
        environment = sandbox.Sandbox(language, constants, DictLoader(template.texts))
        self._parts = {part: self._compiled(environment, f"{language}/{part}") for part in PARTS}
        self._empty: dict[str, Any] = {each.name: None for each in template.fields}
        self._empty_line: dict[str, Any] = {each.name: None for each in template.lines}
        self._unsubscribe_url = f"{sender.public_url}/u/"
        self._last_date = (datetime.min.replace(tzinfo=LOCAL_ZONE), b"")
        self._frame(sender, topic, bulk, feedback_id, mail_domain)

    def _compiled(self, environment: sandbox.Sandbox, path: str) -> CompiledTemplate:
        name = f"{self.template.name}/{path}"
        tree = assemble(environment, path, f"{self.template.name}/")
        if (styled := self.template.styled.get(path)) is not None:
            styles.replace(tree, styled, name)
        return environment.compile_part(tree, name)

    def _frame(
        self,
        sender: Sender,
        topic: TopicInfo,
        bulk: bool,  # noqa: FBT001 - likewise
        feedback_id: str,
        mail_domain: str,
    ) -> None:
        """Build the bytes between the values that differ."""
        name = sender.name_en if self.language == "en" else sender.name_vi
        # Neither encoding of the bodies can produce "=_" at the start of a line (RFC 2045, section
        # 6.7).
        boundary = b"=_" + hashlib.sha256(self.template.version.encode()).hexdigest()[:32].encode()
        list_name = mime.header_text(topic.name[self.language], mime.MAX_NAME_CHARS)
        static = [
            mime.mailbox("From", name, sender.address),
            mime.mailbox("Reply-To", name, sender.reply_to),
            b"List-Id: "
            + mime.display_name(list_name, 9)
            + f"<{topic.code}.{mail_domain}>\r\n".encode(),
            b"Feedback-ID: "
            + mime.unstructured(mime.header_text(feedback_id, 100), column=13)
            + b"\r\n",
            b"Auto-Submitted: auto-generated\r\n",
            b"Precedence: bulk\r\n" if bulk else b"",
            b"X-Auto-Response-Suppress: OOF, AutoReply, RN, NRN\r\n",
            f"Content-Language: {self.language}\r\n".encode(),
            b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
            b"MIME-Version: 1.0\r\n",
            b'Content-Type: multipart/alternative;\r\n boundary="' + boundary + b'"\r\n\r\n',
            b"--" + boundary + b'\r\nContent-Type: text/plain; charset="utf-8"\r\n',
            b"Content-Transfer-Encoding: base64\r\n\r\n",
        ]
        self._static_headers = b"".join(static)
        self._domain = mail_domain.encode()
        self._unsubscribe_start = self._unsubscribe_url.encode()
        self._before_html = (
            b"\r\n--"
            + boundary
            + b'\r\nContent-Type: text/html; charset="utf-8"\r\n'
            + b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        )
        self._end = b"\r\n--" + boundary + b"--\r\n"

    def fill(self, letter: Letter) -> bytes:
        """Return the mail for one recipient: 7-bit, CRLF line ends, no line that starts with a dot.

        Raises RenderError naming the template and what failed, never the recipient's data.
        """
        values = self._values(letter)
        headers = self._headers(letter, values["check_code"])
        subject = mime.subject("".join(self._run("subject.txt", values)))
        text = mime.base64_body("".join(self._run("body.txt", values)))
        html = self._run("body.html", values)
        raw = b"".join(
            (*headers, subject, self._static_headers, text, self._before_html, *html, self._end)
        )
        if len(raw) > self._max_bytes:
            raise self._failure("whole mail", sandbox.too_large(self._max_bytes))
        return raw

    def texts(self, letter: Letter) -> tuple[str, str, str]:
        """Return subject, text and HTML as they read; raises what `fill` raises."""
        values = self._values(letter)
        subject = "".join(self._run("subject.txt", values))
        text = "".join(self._run("body.txt", values))
        html = a2b_qp(b"".join(self._run("body.html", values))).decode()
        return (
            mime.header_text(subject, mime.MAX_SUBJECT_CHARS),
            mime.body_text(text),
            mime.body_text(html),
        )

    def preview(self, letter: Letter) -> Preview:
        """Return the mail with its subject and texts as they read; raises what `fill` raises."""
        subject, text, html = self.texts(letter)
        return Preview(subject=subject, text=text, html=html, raw=self.fill(letter))

    def _values(self, letter: Letter) -> dict[str, Any]:
        """Return the names that the template sees.

        Its fields (None when absent), then what no field may replace.
        """
        data = letter.data
        empty = self._empty_line
        try:
            lines = [{**empty, **line} for line in data.get(LINE_KEY) or ()]
        except TypeError:
            raise self._failure(
                "data", RenderError("The lines are not a list of objects.")
            ) from None
        return {
            **self._empty,
            **data,
            "name": letter.to_name,
            "tax_code": letter.tax_code,
            "unsubscribe_url": self._unsubscribe_url + letter.unsubscribe_token,
            # What the page at verify_url asks for.
            "check_code": str(letter.message_id),
            LINE_KEY: lines,
        }

    def _headers(self, letter: Letter, message_id: str) -> tuple[bytes, ...]:
        """Return the headers that differ, except Subject.

        List-Unsubscribe as in RFC 2369 and RFC 8058.
        """
        try:
            last_date, date_header = self._last_date
            # The letters of a batch share one date object, so it is written out once.
            if letter.date is not last_date:
                date_header = _date_header(letter.date)
                self._last_date = (letter.date, date_header)
            to = mime.mailbox("To", letter.to_name, letter.to_address)
        except RenderError as error:
            raise self._failure("headers", error) from None
        if not _TOKEN.fullmatch(letter.unsubscribe_token):
            raise self._failure(
                "headers", RenderError("The unsubscribe token does not belong in an address.")
            )
        token = letter.unsubscribe_token.encode()
        return (
            b"%b%bMessage-ID: <%b@%b>\r\n" % (to, date_header, message_id.encode(), self._domain),
            b"List-Unsubscribe: <%b%b>,\r\n" % (self._unsubscribe_start, token),
            b" <mailto:unsubscribe@%b?subject=%b>\r\n" % (self._domain, token),
        )

    def _run(self, part: str, values: dict[str, Any]) -> list[Any]:
        """Return the pieces of one part: strings of a text, quoted-printable bytes of HTML."""
        try:
            return sandbox.run(
                self._parts[part], values, limit=self._max_bytes, seconds=self._max_seconds
            )
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            raise self._failure(part, error) from None

    def _failure(self, part: str, error: Exception) -> RenderError:
        source = "\n".join(self.template.texts.values())
        return RenderError(
            f"The template '{self.template.name}' ({self.language}, {part}) failed: "
            + sandbox.what_failed(error, source),
            fix=error.fix if isinstance(error, RenderError) else "",
        )


def _date_header(date: datetime) -> bytes:
    """Return the Date header (RFC 5322, section 3.3) in Vietnam's time."""
    if date.tzinfo is None:
        raise RenderError("The date of a letter has no time zone.")
    local = date.astimezone(LOCAL_ZONE)
    day = f"{_DAYS[local.weekday()]}, {local.day:02} {_MONTHS[local.month - 1]} {local.year:04}"
    return f"Date: {day} {local:%H:%M:%S} +0700\r\n".encode()
