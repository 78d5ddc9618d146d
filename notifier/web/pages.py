"""Pages as HTML: server-rendered, bilingual, without scripts or cookies."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from notifier.domain.calendar import HANOI

_HERE = Path(__file__).parent
STYLE = (_HERE / "static" / "style.css").read_text(encoding="utf-8")

PRIVATE = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self' data:; "
    "frame-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
}

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["hanoi"] = lambda moment: moment.astimezone(HANOI).strftime(
    "%d/%m/%Y %H:%M:%S"
)


def language(request: Request) -> str:
    """Return `en` when the address asks for it, else Vietnamese."""
    return "en" if request.query_params.get("lang") == "en" else "vi"


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """Return a page in the language that the request asks for."""
    lang = language(request)
    # What answers a form has no address of its own to link to: each page of a token links to the
    # one that can be opened.
    token = request.path_params.get("token")
    other = ("" if token is None else f"/u/{quote(token, safe='')}") + (
        "?lang=en" if lang == "vi" else "?"
    )
    html = _ENVIRONMENT.get_template(template).render(
        lang=lang, vi=lang == "vi", other=other, **values
    )
    return Response(
        html,
        status_code=status,
        media_type="text/html; charset=utf-8",
        headers=PRIVATE | {"Content-Language": lang},
    )
