"""Puts the styles of an HTML mail into its elements, for programs that know no style sheet.

A parser does that, and any HTML parser moves or drops what has no place in HTML. So it gets the
texts of the tree with a mark where the tags between them stand: a comment between elements, a word
inside attribute values and titles. Afterwards the page is cut at its marks into the new texts.

All of it takes time in proportion to the text: what looks for an end that is not there looks once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import css_inline
from jinja2 import nodes

from notifier.errors import TemplateError
from notifier.rendering.assembly import texts

# The parser ends its process where elements or brackets stand some thousand deep.
MAX_ELEMENT_DEPTH = 100
MAX_CSS_DEPTH = 16

_RESERVED = re.compile("[\ue000-\ue002]")
_BETWEEN, _INSIDE = "<!--\ue000{}\ue002-->", "\ue000{}\ue001"
_MARK = re.compile("<!--\ue000([0-9]+)\ue002-->|\ue000([0-9]+)\ue001")
_ANY_MARK = re.compile("\ue000[0-9]+[\ue001\ue002]")
_ELEMENT = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)")
_STYLE = re.compile(r"<style\b")
_VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr")
)
_END = "the end"


def inline(tree: nodes.Template, name: str) -> list[str]:
    """Return the texts of `tree` anew.

    Rules of `<style>` in each element, at-rules left in `<style>`.

    At-rules are for narrow screens and the dark. Raise TemplateError naming `name` when the page is
    not well-formed: when the parser would move, add or drop anything.
    """
    pieces = texts(tree)
    page = _marked(pieces, name)
    _refuse_depth(page, name)
    # The rules come from the page itself: nothing is fetched, whatever a template links to.
    inlined = css_inline.CSSInliner(
        keep_at_rules=True, minify_css=True, load_remote_stylesheets=False
    ).inline(page)
    for written, parsed in zip_longest(_skeleton(page), _skeleton(inlined), fillvalue=_END):
        if written != parsed:
            found, meant = _shown(parsed, pieces), _shown(written, pieces)
            raise _malformed(name, f"a parser finds {found} where {meant} is written")
    parts = _MARK.split(_compacted(inlined))
    if [int(mark or other) for mark, other in zip(parts[1::3], parts[2::3], strict=True)] != list(
        range(len(pieces) - 1)
    ):
        raise TemplateError(
            f"{name}: an attribute with a Jinja tag stands before the class of its element.",
            fix='Write class="…" first.',
        )
    # Indentation is for those who edit the template; in the mail it is a fifth of the size.
    return [re.sub(r"\n\s+", "\n", part) for part in parts[::3]]


def replace(tree: nodes.Template, new: Sequence[str], name: str) -> None:
    """Put what `inline` returned for the same texts in their places; raise TemplateError."""
    old = texts(tree)
    if len(old) != len(new):
        raise TemplateError(
            f"{name} was frozen with {len(new)} texts and now has {len(old)}.",
            fix="Run it with the version of the service that launched it.",
        )
    for node, text in zip(old, new, strict=True):
        node.data = text


def _malformed(name: str, what: str) -> TemplateError:
    return TemplateError(
        f"{name} is not well-formed HTML: {what}.",
        fix="Extend the layout, close every element in the branch that opens it, and write <thead> "
        "and <tbody> in tables.",
    )


def _shown(step: str, pieces: Sequence[nodes.TemplateData]) -> str:
    if not _ANY_MARK.fullmatch(step):
        return step
    return f"the Jinja tag of line {_line_after(pieces[int(step[1:-1])])}"


def _line_after(piece: nodes.TemplateData) -> int:
    return piece.lineno + piece.data.count("\n")


# --- marks ----------------------------------------------------------------------------------------

# For each place in HTML, what ends it. An attribute value is named by its quote, the style
# attribute's by "s" and its quote.
_ENDS = {
    "text": re.compile(r"<!--|<title\b[^>]*>|<style\b[^>]*>|</?[a-zA-Z!]"),
    "element": re.compile(r""">|\bstyle\s*=\s*["']|["']"""),
    "comment": re.compile("-->"),
    "title": re.compile("</title>"),
    "style": re.compile("</style>"),
    '"': re.compile('"'),
    "'": re.compile("'"),
    's"': re.compile('"'),
    "s'": re.compile("'"),
}
_TAGS_ALLOWED = frozenset({"text", "comment", "title", '"', "'"})


def _marked(pieces: Sequence[nodes.TemplateData], name: str) -> str:
    """Return the texts as one page, with a mark that is fit for its place between each two."""
    out: list[str] = []
    place = "text"
    for number, piece in enumerate(pieces):
        if _RESERVED.search(piece.data):
            raise TemplateError(f"{name} contains characters that are reserved (U+E000 to U+E002).")
        out.append(piece.data)
        place = _place_after(piece.data, place)
        if number == len(pieces) - 1:
            break
        if place not in _TAGS_ALLOWED:
            raise TemplateError(
                f"{name}, around line {_line_after(piece)}: "
                "a Jinja tag stands inside an HTML tag or style.",
                fix="Put it between elements, or inside the quotes of an attribute but style.",
            )
        out.append((_BETWEEN if place == "text" else _INSIDE).format(number))
    return "".join(out)


def _place_after(static: str, place: str) -> str:
    """Say at which place of HTML one is after `static`, having been at `place` before it."""
    at = 0
    while end := _ENDS[place].search(static, at):
        at = end.end()
        place = _next_place(place, end[0])
    return place


def _next_place(place: str, end: str) -> str:
    if place == "text":
        named = {"<!--": "comment", "<titl": "title", "<styl": "style"}
        return named.get(end[:5], named.get(end, "element"))
    if place == "element":
        if end == ">":
            return "text"
        return "s" + end[-1] if end.startswith("style") else end
    return "element" if place[-1] in "\"'" else "text"


# --- what the parser may not change ---------------------------------------------------------------


def _tags(html: str) -> Iterator[tuple[str, str]]:
    """Yield what the page is made of, each with its kind: text, element, comment, style, broken."""
    at = 0
    while at < len(html):
        start = html.find("<", at)
        yield "text", html[at : start if start >= 0 else len(html)]
        if start < 0:
            return
        kind, end = "element", ">"
        if html.startswith("<!--", start):
            kind, end = "comment", "-->"
        elif _STYLE.match(html, start):
            kind, end = "style", "</style>"
        elif html.startswith("<!", start):
            kind = "comment"
        elif not _ELEMENT.match(html, start):
            # A sign in a sentence.
            at = start + 1
            continue
        found = html.find(end, start)
        at = found + len(end) if found >= 0 else len(html)
        yield kind if found >= 0 else "broken", html[start:at]


def _skeleton(html: str) -> Iterator[str]:
    """Yield elements, marks and the places of text in their order.

    Style elements are left out, which the inliner rewrites.
    """
    for kind, piece in _tags(html):
        if kind == "element" and (named := _ELEMENT.match(piece)):
            yield named[0]
        elif kind == "broken":
            yield piece[:20]
        elif kind == "text" and _ANY_MARK.sub("", piece).strip():
            yield "text"
        if kind != "style":
            # The inliner may write attributes in another order, which changes nothing.
            yield from sorted(mark[0] for mark in _ANY_MARK.finditer(piece))


def _refuse_depth(page: str, name: str) -> None:
    """Raise TemplateError for elements that are not closed in their order, or are too deep.

    Whatever is refused here would be refused after the parser, too, if the parser survived it.
    """
    opened: list[str] = []
    for kind, piece in _tags(page):
        if kind in {"element", "style"} and _css_depth(piece) > MAX_CSS_DEPTH:
            raise TemplateError(f"{name}: its styles are nested too deeply.")
        if kind == "broken":
            raise _malformed(name, f"'{piece[:20]}' has no end")
        if kind != "element" or (named := _ELEMENT.match(piece)) is None:
            continue
        element = named[1].lower()
        if not piece.startswith("</"):
            if element not in _VOID:
                opened.append(element)
        elif not opened or opened.pop() != element:
            raise _malformed(name, f"</{element}> closes what is not open")
        if len(opened) > MAX_ELEMENT_DEPTH:
            raise TemplateError(
                f"{name}: more than {MAX_ELEMENT_DEPTH} elements stand inside each other.",
                fix="Simplify the page.",
            )
    if opened:
        raise _malformed(name, f"<{opened[-1]}> is not closed")


def _css_depth(css: str) -> int:
    deepest = depth = 0
    for char in re.findall(r"[()\[\]{}]", css):
        depth += 1 if char in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


def _compacted(html: str) -> str:
    """Return the page with the spaces of its style elements left out."""
    out: list[str] = []
    at = 0
    while (start := _STYLE.search(html, at)) and (end := html.find("</style>", start.start())) >= 0:
        out += (html[at : start.start()], _compacted_rules(html[start.start() : end]), "</style>")
        at = end + len("</style>")
    return "".join((*out, html[at:]))


def _compacted_rules(css: str) -> str:
    parts = re.split(r"([{};,])", css)
    last = len(parts) - 1
    for at in range(0, len(parts), 2):
        part = parts[at].rstrip() if at < last else parts[at]
        parts[at] = part.lstrip() if at else part
    return re.sub(r":\s+", ":", "".join(parts))
