"""Joins the files of a template into one source per part, and puts the styles of the HTML into its elements.

`{% extends %}`, `{% block %}` and `{% include %}` are resolved here, once, when a template is loaded. What runs later is a single
flat text: nothing is looked up per recipient, and a file edited after a launch has no way into what was launched.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import count, zip_longest

import css_inline

from notifier.errors import TemplateError

MAX_INCLUDE_DEPTH = 8
MAX_READ_CHARS = 256 * 1024

# Jinja lexes whole strings inside a tag, so `{{ "}}" }}` is one tag; the pattern must see it the same way.
_INSIDE = r"""(?:"[^"]*"|'[^']*'|[^"'])*?"""
TAG = re.compile(r"\{#.*?#\}|\{\{" + _INSIDE + r"\}\}|\{%" + _INSIDE + r"%\}", re.DOTALL)
_STRUCTURE = re.compile(
    r"""\{%[-+]?\s*(?:(?P<verb>extends|include)\s+["'](?P<path>[^"']+)["']"""
    r"""|block\s+(?P<block>\w+)(?:\s+(?:scoped|required))*|(?P<end>endblock)(?:\s+\w+)?)\s*[-+]?%\}"""
)
_OWN_LINE = re.compile(
    r"^[ \t]*((?:\{%[-+]?\s*(?:extends|include|block|endblock)\b[^%]*%\}|\{#(?:(?!#\}).)*#\})+)[ \t]*\n",
    re.MULTILINE | re.DOTALL,
)
_MARK = re.compile("\ue000(\\d+)\ue001")
_SKELETON = re.compile(
    r"<!.*?>|(?P<element></?[a-zA-Z][a-zA-Z0-9]*)[^>]*>|(?P<text>[^<\s][^<]*)", re.DOTALL
)
_STYLE_ELEMENT = re.compile(r"<style\b.*?</style>", re.DOTALL)

Read = Callable[[str], str]


def flatten(path: str, read: Read, *, language: str) -> str:
    """Return the text of `path` with its parent, blocks and includes put in place.

    `read` returns the text of a path as written in the template; `{language}` in a path stands for the language. Raises TemplateError
    naming the file.
    """
    total = 0

    def read_some(path: str) -> str:
        # Files that include others many times over would multiply without end.
        nonlocal total
        text = read(path)
        total += len(text)
        if total > MAX_READ_CHARS:
            raise TemplateError(
                f"{path}: the files it takes together are larger than {MAX_READ_CHARS // 1024} kB."
            )
        return text

    return _flatten(path, read_some, language, {}, 0)


def _flatten(path: str, read: Read, language: str, blocks: dict[str, str], depth: int) -> str:
    if depth > MAX_INCLUDE_DEPTH:
        raise TemplateError(
            f"{path} includes itself, or files are included more than {MAX_INCLUDE_DEPTH} deep."
        )
    text = _OWN_LINE.sub(r"\1", read(path))
    # Comments are for the people who edit templates, not for those who get the mail.
    text = TAG.sub(lambda tag: "" if tag[0].startswith("{#") else tag[0], text)
    parent = _STRUCTURE.match(text.lstrip())
    if parent is not None and parent["verb"] == "extends":
        own = _own_blocks(path, text.lstrip()[parent.end() :])
        return _flatten(
            parent["path"].format(language=language), read, language, {**own, **blocks}, depth + 1
        )
    return _fill_blocks(path, text, read, language, blocks, depth)


def _own_blocks(path: str, text: str) -> dict[str, str]:
    """Return the blocks of a file that extends another one; text between them would be lost, so it is refused."""
    blocks: dict[str, str] = {}
    at = 0
    for start, end, name, inner in _outer_blocks(path, text):
        if text[at:start].strip():
            break
        blocks[name] = inner
        at = end
    if text[at:].strip():
        raise TemplateError(
            f"{path} has text outside its blocks.",
            fix="Move it into a block of the layout it extends.",
        )
    return blocks


def _outer_blocks(path: str, text: str) -> list[tuple[int, int, str, str]]:
    """Return start, end, name and inner text of each block that stands in no other block."""
    found: list[tuple[int, int, str, str]] = []
    opened: list[re.Match[str]] = []
    for tag in _STRUCTURE.finditer(text):
        if tag["block"]:
            opened.append(tag)
        elif tag["end"]:
            if not opened:
                raise TemplateError(f"{path} has an endblock without its block.")
            start = opened.pop()
            if not opened:
                found.append(
                    (start.start(), tag.end(), start["block"], text[start.end() : tag.start()])
                )
    if opened:
        raise TemplateError(f"{path} does not end its block '{opened[-1]['block']}'.")
    return found


def _fill_blocks(
    path: str, text: str, read: Read, language: str, blocks: dict[str, str], depth: int
) -> str:
    if depth > MAX_INCLUDE_DEPTH:
        raise TemplateError(f"{path}: its blocks are more than {MAX_INCLUDE_DEPTH} deep.")

    def with_includes(piece: str) -> str:
        def include(tag: re.Match[str]) -> str:
            if tag["verb"] != "include":
                raise TemplateError(f"{path}: 'extends' must be the first tag of a file.")
            return _flatten(
                tag["path"].format(language=language), read, language, blocks, depth + 1
            )

        return _STRUCTURE.sub(include, piece)

    pieces = []
    at = 0
    for start, end, name, inner in _outer_blocks(path, text):
        pieces.append(with_includes(text[at:start]))
        pieces.append(
            _fill_blocks(path, blocks.get(name, inner), read, language, blocks, depth + 1)
        )
        at = end
    pieces.append(with_includes(text[at:]))
    return "".join(pieces)


def inline_styles(source: str, name: str) -> str:
    """Return the HTML with the rules of `<style>` in each element; at-rules (dark mode, narrow screens) stay in `<style>`.

    A parser reads the text, and any HTML parser moves or drops what has no place in HTML, Jinja tags between table rows above all.
    So each tag is replaced by a comment (between elements) or a marked word (inside attribute values and titles) and put back after.
    Raises TemplateError naming `name` when the parser would still change the order of anything.
    """
    if _MARK.search(source):
        raise TemplateError(f"{name} contains characters that are reserved (U+E000).")
    tags: list[str] = []
    protected = _protect(source, name, tags)
    # The rules come from the page itself: nothing is fetched, whatever a template links to.
    inlined = css_inline.CSSInliner(
        keep_at_rules=True, minify_css=True, load_remote_stylesheets=False
    ).inline(protected)
    for written, parsed in zip_longest(
        _skeleton(protected), _skeleton(inlined), fillvalue="the end"
    ):
        if written != parsed:
            raise TemplateError(
                f"{name} is not well-formed HTML: a parser finds {_shown(parsed, tags)} where {_shown(written, tags)} is written.",
                fix="Extend the layout, close every element in the branch that opens it, and write <thead> and <tbody> in tables.",
            )
    inlined = inlined.replace("<!--\ue000", "\ue000").replace("\ue001-->", "\ue001")
    inlined = _STYLE_ELEMENT.sub(lambda style: _compact_rules(style[0]), inlined)
    restored = _MARK.sub(lambda mark: tags[int(mark[1])], inlined)
    # Indentation is for those who edit the template; in the mail it is a fifth of the size.
    return re.sub(r"\n\s+", "\n", restored)


def _compact_rules(css: str) -> str:
    return re.sub(r":\s+", ":", re.sub(r"\s*([{};,])\s*", r"\1", css))


def _skeleton(html: str) -> list[str]:
    """Return elements, marks and the places of text in their order, without style elements, which the inliner rewrites."""
    steps: list[str] = []
    for step in _SKELETON.finditer(_STYLE_ELEMENT.sub("", html)):
        if step["element"]:
            steps.append(step["element"])
        elif step["text"]:
            steps.append("text")
        # The inliner may write attributes in another order, which changes nothing.
        steps += sorted(mark[0] for mark in _MARK.finditer(step[0]))
    return steps


def _shown(step: str, tags: list[str]) -> str:
    mark = _MARK.fullmatch(step)
    return tags[int(mark[1])] if mark else step


def _protect(source: str, name: str, tags: list[str]) -> str:
    """Replace each Jinja tag by a mark that is fit for its place."""
    numbers = count()
    out: list[str] = []
    place = "text"
    at = 0
    for tag in TAG.finditer(source):
        static = source[at : tag.start()]
        place = _place_after(static, place)
        out.append(static)
        if place not in _TAGS_ALLOWED:
            line = source.count("\n", 0, tag.start()) + 1
            raise TemplateError(
                f"{name}, around line {line}: a Jinja tag stands inside an HTML tag or style.",
                fix="Put it between elements or inside the quotes of an attribute other than style.",
            )
        mark = f"\ue000{next(numbers)}\ue001"
        out.append(f"<!--{mark}-->" if place == "text" else mark)
        tags.append(tag[0])
        at = tag.end()
    out.append(source[at:])
    return "".join(out)


# For each place in HTML, what ends it. An attribute value is named by its quote, the style attribute's by "s" and its quote.
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
