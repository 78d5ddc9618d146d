"""The inbox of the mail catcher: what the demo sent, as people would see it.

Exists only where the catcher keeps mail.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.message import EmailMessage

from fastapi import APIRouter, Request, Response

from notifier.instance.servers.mailbox import Entry, Mailbox, printable
from notifier.web.pages import PRIVATE, page

PAGE_ROWS = 50
# The mail's own HTML: it may have its styles, and nothing else.
_MAIL_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; "
    "sandbox allow-popups allow-popups-to-escape-sandbox"
)
_SHOWN_HEADERS = (
    "From",
    "To",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Id",
)


def make_router(mailbox: Mailbox) -> APIRouter:
    """Return the inbox over the catcher's folder."""
    router = APIRouter(prefix="/inbox")

    @router.get("", include_in_schema=False)
    def inbox(request: Request, q: str = "", p: int = 1) -> Response:
        number = max(1, p)
        total, entries = mailbox.page(
            offset=(number - 1) * PAGE_ROWS, limit=PAGE_ROWS, search=q[:100]
        )
        pages = max(1, -(-total // PAGE_ROWS))
        return page(
            request,
            "inbox.html",
            entries=[(each, datetime.fromtimestamp(each.at, UTC)) for each in entries],
            total=total,
            q=q[:100],
            number=number,
            pages=pages,
        )

    @router.get("/{number:int}", include_in_schema=False)
    def mail(request: Request, number: int) -> Response:
        entry = mailbox.get(number)
        if entry is None:
            return page(request, "message.html", status=404, code="page")
        message = mailbox.parsed(entry)
        headers = [(name, value) for name in _SHOWN_HEADERS if (value := _header(message, name))]
        return page(
            request,
            "mail.html",
            entry=entry,
            headers=headers,
            text=_part(message, "plain"),
            size=entry.length,
        )

    @router.get("/{number:int}/html", include_in_schema=False)
    def html(number: int) -> Response:
        return _content(mailbox, number, "html")

    @router.get("/{number:int}.eml", include_in_schema=False)
    def eml(number: int) -> Response:
        entry = mailbox.get(number)
        if entry is None:
            return Response(
                "Not found.\n", status_code=404, media_type="text/plain", headers=PRIVATE
            )
        headers = PRIVATE | {"Content-Disposition": f'attachment; filename="{number}.eml"'}
        return Response(mailbox.raw(entry), media_type="message/rfc822", headers=headers)

    return router


def _content(mailbox: Mailbox, number: int, kind: str) -> Response:
    entry: Entry | None = mailbox.get(number)
    body = _part(mailbox.parsed(entry), kind) if entry is not None else ""
    # A link of the mail opens a page of its own; inside the frame our pages refuse to be shown.
    body = body.replace("<head>", '<head><base target="_blank">', 1)
    headers = PRIVATE | {"Content-Security-Policy": _MAIL_POLICY, "X-Frame-Options": "SAMEORIGIN"}
    return Response(
        body,
        status_code=200 if body else 404,
        media_type="text/html; charset=utf-8",
        headers=headers,
    )


def _header(message: EmailMessage, name: str) -> str:
    try:
        return printable(str(message[name] or ""))
    except ValueError:
        # An encoded word that decodes to what is no text: it is shown as it was written.
        return next(
            printable(str(value))
            for key, value in message.raw_items()
            if key.lower() == name.lower()
        )


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body(preferencelist=(kind,))
    if part is None:
        return ""
    try:
        text = str(part.get_content())
    except (LookupError, ValueError):
        # A charset that Python does not know, or cannot decode with: what is ASCII can be read all
        # the same.
        content = part.get_payload(decode=True)
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else ""
    return printable(text)
