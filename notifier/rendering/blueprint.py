"""A template compiled for one campaign and language; filling it in for a recipient takes tens of microseconds.

What is the same for everybody is encoded once: most headers, and every piece of the HTML that holds no value. Per recipient remain the
few values that differ.
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

from jinja2.environment import Template as CompiledTemplate

from notifier.errors import RenderError, TemplateError
from notifier.rendering import mime, sandbox
from notifier.rendering.catalogue import LINE_KEY, Template, TopicInfo
from notifier.rendering.formats import LOCAL_ZONE

_TOKEN = re.compile(r"[A-Za-z0-9_.~-]{1,500}")
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Sender:
    """The office that a mail comes from. `address` and `reply_to` are mailboxes; `public_url` has no slash at its end."""

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

    `bulk` adds "Precedence: bulk" (campaigns, not single notices); `feedback_id` is the Feedback-ID header; `mail_domain` stands in
    Message-ID, List-Id and the unsubscribe mailbox. A mail larger than `max_bytes` or slower than `max_seconds` is a RenderError. Raises
    TemplateError when the texts do not compile, RenderError when the sender cannot be written in a header.
    """
    if language not in template.languages:
        raise TemplateError(f"The template '{template.name}' has no language '{language}'.")
    if not _DOMAIN.fullmatch(mail_domain):
        raise TemplateError("The mail domain is not a domain name.", fix="Correct NOTIFIER_MAIL_DOMAIN.")
    return Blueprint(template, language, sender, topic, bulk, feedback_id, mail_domain, max_bytes, max_seconds)


class Blueprint:
    """Turns letters into the bytes of mails; made by `compile_blueprint`, safe to share between threads."""

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
        environment = sandbox.Sandbox(language, constants)
        self._subject, self._text, self._html = (
            environment.compile_part(template.sources[f"{language}/{part}"], f"{template.name}/{language}/{part}")
            for part in ("subject.txt", "body.txt", "body.html")
        )
        self._empty: dict[str, Any] = {each.name: None for each in template.fields}
        self._empty_line: dict[str, Any] = {each.name: None for each in template.lines}
        self._unsubscribe_url = f"{sender.public_url}/u/"
        self._last_date = (datetime.min.replace(tzinfo=LOCAL_ZONE), b"")
        self._frame(sender, topic, bulk, feedback_id, mail_domain)

    def _frame(self, sender: Sender, topic: TopicInfo, bulk: bool, feedback_id: str, mail_domain: str) -> None:  # noqa: FBT001
        """Build the bytes between the values that differ."""
        name = sender.name_en if self.language == "en" else sender.name_vi
        # Neither encoding of the bodies can produce "=_" at the start of a line (RFC 2045, section 6.7).
        boundary = b"=_" + hashlib.sha256(self.template.version.encode()).hexdigest()[:32].encode()
        list_name = mime.header_text(topic.name[self.language], mime.MAX_NAME_CHARS)
        static = [
            mime.mailbox("From", name, sender.address),
            mime.mailbox("Reply-To", name, sender.reply_to),
            b"List-Id: " + mime.display_name(list_name, 9) + f"<{topic.code}.{mail_domain}>\r\n".encode(),
            b"Feedback-ID: " + mime.unstructured(mime.header_text(feedback_id, 100), column=13) + b"\r\n",
            b"Auto-Submitted: auto-generated\r\n",
            b"Precedence: bulk\r\n" if bulk else b"",
            b"X-Auto-Response-Suppress: OOF, AutoReply, RN, NRN\r\n",
            f"Content-Language: {self.language}\r\n".encode(),
            b"MIME-Version: 1.0\r\n",
            b'Content-Type: multipart/alternative;\r\n boundary="' + boundary + b'"\r\n',
            b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        ]
        self._static_headers = b"".join(static)
        self._domain = mail_domain.encode()
        self._unsubscribe_start = b"List-Unsubscribe: <" + self._unsubscribe_url.encode()
        self._unsubscribe_middle = b">,\r\n <mailto:unsubscribe@" + self._domain + b"?subject="
        self._before_text = (
            b">\r\n\r\n--" + boundary + b'\r\nContent-Type: text/plain; charset="utf-8"\r\n'
            b"Content-Transfer-Encoding: base64\r\n\r\n"
        )
        self._before_html = (
            b"\r\n--" + boundary + b'\r\nContent-Type: text/html; charset="utf-8"\r\n'
            b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        )
        self._end = b"\r\n--" + boundary + b"--\r\n"

    def fill(self, letter: Letter) -> bytes:
        """Return the mail for one recipient: 7-bit, CRLF line ends, no line that starts with a dot.

        Raises RenderError naming the template and what failed, never the recipient's data.
        """
        part = "subject.txt"
        try:
            values = self._values(letter)
            subject = mime.subject("".join(self._run(self._subject, values)))
            part = "headers"
            headers, links = self._headers(letter), self._links(letter)
            part = "body.txt"
            text = mime.base64_body("".join(self._run(self._text, values)))
            part = "body.html"
            html = self._run(self._html, values)
        except Exception as error:
            raise self._failure(part, error) from None
        raw = b"".join((headers, subject, self._static_headers, links, text, self._before_html, *html, self._end))
        if len(raw) > self._max_bytes:
            raise self._failure(part, sandbox.too_large(self._max_bytes))
        return raw

    def texts(self, letter: Letter) -> tuple[str, str, str]:
        """Return subject, text and HTML as they read; raises what `fill` raises."""
        part = ""
        try:
            values = self._values(letter)
            texts = []
            for part, compiled in (("subject.txt", self._subject), ("body.txt", self._text), ("body.html", self._html)):
                texts.append(self._run(compiled, values))
        except Exception as error:
            raise self._failure(part, error) from None
        subject = mime.header_text("".join(texts[0]), mime.MAX_SUBJECT_CHARS)
        return subject, mime.sane("".join(texts[1])), a2b_qp(b"".join(texts[2])).decode().replace("\r\n", "\n")

    def preview(self, letter: Letter) -> Preview:
        """Return the mail with its subject and texts as they read; raises what `fill` raises."""
        subject, text, html = self.texts(letter)
        return Preview(subject=subject, text=text, html=html, raw=self.fill(letter))

    def _values(self, letter: Letter) -> dict[str, Any]:
        """Return the names that the template sees: its fields (None when absent), then what no field may replace."""
        data = letter.data
        values = {
            **self._empty,
            **data,
            "name": letter.to_name,
            "tax_code": letter.tax_code,
            "unsubscribe_url": self._unsubscribe_url + letter.unsubscribe_token,
        }
        empty = self._empty_line
        values[LINE_KEY] = [{**empty, **line} for line in data.get(LINE_KEY) or ()]
        return values

    def _headers(self, letter: Letter) -> bytes:
        """Return the headers that differ, except Subject and List-Unsubscribe."""
        last_date, date_header = self._last_date
        # The letters of a batch share one date object, so it is written out once.
        if letter.date is not last_date:
            date_header = _date_header(letter.date)
            self._last_date = (letter.date, date_header)
        to = mime.mailbox("To", letter.to_name, letter.to_address)
        return b"%b%bMessage-ID: <%b@%b>\r\n" % (to, date_header, str(letter.message_id).encode(), self._domain)

    def _links(self, letter: Letter) -> bytes:
        """Return List-Unsubscribe (RFC 2369, RFC 8058) and what stands between it and the text."""
        if not _TOKEN.fullmatch(letter.unsubscribe_token):
            raise RenderError("The unsubscribe token has characters that do not belong in an address.")
        token = letter.unsubscribe_token.encode()
        return b"".join((self._unsubscribe_start, token, self._unsubscribe_middle, token, self._before_text))

    def _run(self, part: CompiledTemplate, values: dict[str, Any]) -> list[Any]:
        return sandbox.run(part, values, limit=self._max_bytes, seconds=self._max_seconds)

    def _failure(self, part: str, error: Exception) -> RenderError:
        source = self.template.sources.get(f"{self.language}/{part}", "")
        return RenderError(
            f"The template '{self.template.name}' ({self.language}, {part}) failed: {sandbox.what_failed(error, source)}",
            fix=error.fix if isinstance(error, RenderError) else "",
        )


def _date_header(date: datetime) -> bytes:
    """Return the Date header (RFC 5322, section 3.3) in Vietnam's time."""
    if date.tzinfo is None:
        raise RenderError("The date of a letter has no time zone.")
    local = date.astimezone(LOCAL_ZONE)
    day = f"{_DAYS[local.weekday()]}, {local.day:02} {_MONTHS[local.month - 1]} {local.year:04}"
    return f"Date: {day} {local:%H:%M:%S} +0700\r\n".encode()
