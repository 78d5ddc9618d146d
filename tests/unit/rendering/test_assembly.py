"""Files become one tree as Jinja itself would run them.

Styles go into elements, tags keep their place.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import BaseLoader, DictLoader, Environment

from notifier.errors import TemplateError
from notifier.rendering import styles
from notifier.rendering.assembly import assemble, texts
from notifier.rendering.sandbox import MAX_DEPTH, Sandbox, run

# Generous against a busy machine: what took minutes takes a tenth of this now.
PATIENCE_SECONDS = 5


def join(**files: str) -> str:
    """Return what `start` says with all that it takes."""
    named = {name.replace("_", "/"): text for name, text in files.items()}
    environment = Sandbox("vi", {}, DictLoader(named))
    part = environment.compile_part(assemble(environment, "start"), "start")
    values = {"x": "X", "y": "Y", "lines": [1, 2]}
    return "".join(run(part, values, limit=1 << 20, seconds=5))


class Plain(Environment):
    """Jinja as it is, with our spaces and our way to name a language."""

    def __init__(self, loader: BaseLoader) -> None:
        super().__init__(
            loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
        )

    def join_path(self, template: str, parent: str) -> str:  # noqa: ARG002 - Jinja's protocol
        return template.replace("{language}", "vi")


def test_blocks_of_a_child_replace_those_of_its_parent() -> None:
    child = '{% extends "parent" %}\n{% block a %}new {{ x }}{% endblock %}'
    assert (
        join(start=child, parent="<{% block a %}old{% endblock %}|{% block b %}kept{% endblock %}>")
        == "<new X|kept>"
    )


def test_a_block_inside_a_block_can_be_replaced_alone() -> None:
    parent = "{% block out %}[{% block inner %}old{% endblock inner %}]{% endblock out %}"
    assert (
        join(start='{% extends "parent" %}{% block inner %}new{% endblock %}', parent=parent)
        == "[new]"
    )


def test_includes_take_the_language_and_leave_no_blank_lines() -> None:
    text = 'a\n  {% include "{language}/part" %}\nb\n'
    assert join(start=text, vi_part="phần\n") == "a\nphần\nb\n"


def test_comments_are_left_out() -> None:
    assert join(start="a{# for authors\nonly #}b") == "ab"


def test_a_tag_may_hold_braces_in_its_strings() -> None:
    assert join(start="""{{ "}}" }}{{ '%}' }}""") == "}}%}"


_PIECES = st.sampled_from(
    [
        "a\n",
        "\n",
        "  ",
        "b",
        "{{ x }}",
        "{# c #}\n",
        "{% if x %}\nyes{% else %}no{% endif %}",
        "  {% for l in lines %}\n  {{ l }}\n  {% endfor %}\n",
        "{% for l in lines %}{{ l }}{% endfor %}\n",
        "{%- if y -%}\n y {% endif +%}\n",
        "{% raw %}{{{% endraw %}",
        '{% include "part" %}\n',
        '{% include "{language}/part" %}',
    ]
)
_BODIES = st.lists(_PIECES, max_size=8).map("".join)


@given(
    st.dictionaries(st.sampled_from("abc"), _BODIES),
    st.lists(st.tuples(st.sampled_from("abc"), _BODIES), max_size=3, unique_by=lambda p: p[0]),
    _BODIES,
)
def test_it_says_what_jinja_itself_would(
    own: dict[str, str], places: list[tuple[str, str]], part: str
) -> None:
    layout = "top\n" + "".join(
        f"{{% block {name} %}}{body}{{% endblock %}}\n-" for name, body in places
    )
    child = '{% extends "layout" %}\n' + "\n".join(
        f"{{% block {name} %}}\n{body}\n{{% endblock %}}" for name, body in own.items()
    )
    plain = part.replace('{% include "part" %}', "").replace('{% include "{language}/part" %}', "")
    files = {"start": child, "layout": layout, "part": plain, "vi/part": "(vi)\n"}
    wanted = Plain(DictLoader(files)).get_template("start").render(x="X", y="Y", lines=[1, 2])
    assert join(**{name.replace("/", "_"): text for name, text in files.items()}) == wanted


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"start": '{% include "start" %}'}, "includes itself"),
        ({"start": '{% extends "start" %}'}, "includes itself"),
        ({"start": "{% block a %}x"}, "start, line 1: .*'endblock'.*to be closed is 'block'"),
        ({"start": "x\n{% endblock %}"}, "start, line 2: .*unknown tag 'endblock'"),
        ({"start": 'x{% extends "p" %}', "p": ""}, "line 1: 'extends' must be the first tag"),
        ({"start": '{% extends "p" %}{% extends "p" %}', "p": ""}, "must be the first tag"),
        ({"start": '{% extends "p" %}lost text', "p": ""}, "outside its blocks"),
        ({"start": '{% extends "p" %}{{ x }}', "p": ""}, "outside its blocks"),
        (
            {"start": '{% extends "p" %}', "p": "{% block a required %}{% endblock %}"},
            "to be given",
        ),
        ({"start": "{% include x %}"}, "'include' needs the name of a file"),
        ({"start": '{% include ["a", "b"] %}'}, "'include' needs the name of a file"),
        ({"start": '{% include "a" ignore missing %}'}, "nothing else"),
        ({"start": '{% include "none" %}'}, "The file none is missing"),
        ({"start": '{% include "{language:>1000000000}" %}'}, "is missing"),
        (
            {"start": '{% include "big" %}' * 9, "big": "x" * 40_000},
            "together are larger than 256 kB",
        ),
        (
            {
                "start": '{% extends "q" %}{% block a %}{% block b %}{% endblock %}{% endblock %}',
                "q": "{% block a %}{% endblock %}{% block b %}{% endblock %}",
            },
            "the block 'b' has more than one place",
        ),
    ],
)
def test_files_that_cannot_be_joined_are_named(files: dict[str, str], says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        join(**files)


HOSTILE = {
    "comment openers": "{#" * 20_000,
    "comment openers that end": "{#" * 20_000 + "#}",
    "expression openers": "{{" * 32_000,
    "tag openers": "{%" * 32_000,
    "raw": "{% raw %}" * 7_000,
    "blocks": "".join(f"{{% block b{at} %}}" for at in range(3_000)),
    "ends": "{% endblock %}" * 4_000,
    "brackets": "{{ " + "(" * 20_000,
    "lists": "{{ " + "[" * 30_000 + "]" * 30_000 + " }}",
    "not": "{{ " + "not " * 10_000 + "x }}",
    "minus": "{{ " + "-" * 30_000 + "1 }}",
    "filters": "{{ x" + "|upper" * 8_000 + " }}",
    "items": "{{ x" + "[0]" * 8_000 + " }}",
    "sums": "{{ x" + "+1" * 8_000 + " }}",
    "digits": "{{ " + "1" * 60_000 + " }}",
    "loops": "{% for a in lines %}" * 900 + "{% endfor %}" * 900,
    "conditions": "{% if x %}" * 900 + "{% endif %}" * 900,
    "quotes": "{{ " + "'" * 59_999 + " }}",
    "spaces in a tag": "{%" + " " * 60_000 + "if",
    "blank lines": "\n" * 60_000 + "{% if x %}{% endif %}",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_text_that_nobody_would_write_ends_soon(kind: str) -> None:
    started = time.monotonic()
    try:
        join(start=HOSTILE[kind])
    except TemplateError as error:
        assert "start" in str(error)  # noqa: PT017 - some of these are only odd, and compile
    assert time.monotonic() - started < PATIENCE_SECONDS


def test_the_depth_does_not_depend_on_who_asks() -> None:
    def below(calls: int, depth: int) -> str:
        if calls:
            return below(calls - 1, depth)
        return join(start="{{ x" + "|upper" * depth + " }}")

    most = MAX_DEPTH - len(("template", "output", "name"))
    for calls in (0, 100):
        assert below(calls, most) == "X"
        with pytest.raises(TemplateError, match="nested too deeply"):
            below(calls, most + 1)


STYLED = (
    "<html><head><style>td{color:red}@media (max-width:9px){td{color:blue !important}}</style>"
    "</head><body>%s</body></html>"
)


def inline_styles(source: str) -> str:
    """Return the texts of a page with its styles in the elements; ¦ stands for the tags between."""
    tree = assemble(Sandbox("vi", {}, DictLoader({"t.html": source})), "t.html")
    found = styles.inline(tree, "t.html")
    styles.replace(tree, found, "t.html")
    assert [each.data for each in texts(tree)] == found
    return "¦".join(found)


def test_rules_go_into_elements_and_media_rules_stay() -> None:
    html = inline_styles(STYLED % "<table><tbody><tr><td>x</td></tr></tbody></table>")
    assert '<td style="color:red">x</td>' in html
    assert "@media (max-width:9px)" in html
    assert "blue !important" in html


def test_tags_between_table_rows_stay_between_table_rows() -> None:
    body = (
        "<table><tbody>{% for l in lines %}<tr>{% if l.a %}<td>{{ l.a }}</td>{% endif %}</tr>"
        "{% endfor %}</tbody></table>"
    )
    html = inline_styles(STYLED % body)
    assert '<table><tbody>¦<tr>¦<td style="color:red">¦</td>¦</tr>¦</tbody></table>' in html


def test_tags_in_attributes_titles_and_comments_come_back_as_they_were() -> None:
    body = (
        "<!--{{ a }}--><!-- {{ a }} --><p title='{{ \"<b>\" }}'>"
        "<a href=\"{{ url }}?x=1&amp;y={{ y }}\">{{ 'a' if x < 2 }}</a></p>"
    )
    source = STYLED.replace("<head>", "<head><title>{{ t }}</title>") % body
    html = inline_styles(source)
    for piece in (
        "<title>¦</title>",
        "<!--¦--><!-- ¦ -->",
        '<p title="¦">',
        '<a href="¦?x=1&amp;y=¦">¦</a></p>',
    ):
        assert piece in html


def test_a_comment_of_jinja_may_stand_anywhere() -> None:
    html = inline_styles(STYLED % '<p {# why #} title="a">x{# and #}y</p>')
    assert '<p title="a">xy</p>' in html


@pytest.mark.parametrize(
    "body",
    [
        "<table><tr><td>no tbody</td></tr></table>",
        "<table><tbody>{{ x }}<tr><td>y</td></tr>text</tbody></table>",
        "{% if a %}<p>one{% else %}<p>two{% endif %}</p>",
        "<p>one<p>two</p>",
        "<p>one</b></p>",
        "<p>a < b</p>",
        "<p",
        "<!-- ",
    ],
)
def test_html_that_a_parser_would_change_is_refused(body: str) -> None:
    with pytest.raises(TemplateError, match=r"t\.html is not well-formed HTML"):
        inline_styles(STYLED % body)


@pytest.mark.parametrize(
    "body",
    [
        "<p {% if x %}class='a'{% endif %}>y</p>",
        '<p style="color: {{ x }}">y</p>',
        "<p class={{ x }}>y</p>",
    ],
)
def test_a_tag_inside_an_html_tag_or_style_is_refused_with_its_line(body: str) -> None:
    with pytest.raises(TemplateError, match=r"t\.html, around line 2"):
        inline_styles(STYLED % ("\n" + body))


def test_attributes_that_change_places_are_refused() -> None:
    assert '<p class="¦" title="¦">' in inline_styles(
        STYLED % '<p class="{{ x }}" title="{{ y }}">z</p>'
    )
    with pytest.raises(TemplateError, match=r"before the class.*class=\"…\" first"):
        inline_styles(STYLED % '<p title="{{ y }}" class="{{ x }}">z</p>')


@pytest.mark.parametrize(
    "head",
    ['<link rel="stylesheet" href="http://127.0.0.1:9/x.css">', "<meta charset='utf-8'><p>x</p>"],
)
def test_a_head_with_anything_to_fetch_or_show_is_refused(head: str) -> None:
    with pytest.raises(TemplateError, match="not well-formed"):
        inline_styles(f"<html><head>{head}</head><body><p>x</p></body></html>")


PAGES = {
    "elements": "<div>" * 12_000,
    "closed elements": "<div>" * 12_000 + "</div>" * 12_000,
    "bold": "<b>" * 20_000,
    "tables": "<table><tbody><tr><td>" * 2_000 + "</td></tr></tbody></table>" * 2_000,
    "opening signs": "<" * 60_000,
    "openers": "<a" * 30_000,
    "declarations": "<!" * 30_000,
    "comments": "<!--" * 15_000,
    "titles": "<title " * 9_000,
    "styles": "<style " * 9_000,
    "closers": "</div>" * 10_000,
    "style with spaces": "<style>a{color:red" + " " * 60_000 + "}</style>",
    "style with lines": "<style>" + "\n" * 60_000 + "</style>",
    "style attributes": "<p " + "style " * 10_000 + ">x</p>",
    "attributes": "<p " + " ".join(f"a{at}" for at in range(8_000)) + ">x</p>",
    "brackets of styles": "<style>a{color:" + "(" * 30_000 + "}</style>",
    "rules inside rules": "<style>" + "@media all{" * 5_000 + "</style>",
    "selectors": "<style>a" + ":not(" * 10_000 + "b{color:red}</style>",
    "brackets of an attribute": '<p style="color:' + "(" * 30_000 + '">x</p>',
    "many tags": "<p>{{ x }}</p>" * 4_000,
}


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_that_nobody_would_write_ends_soon(kind: str) -> None:
    started = time.monotonic()
    try:
        inline_styles(STYLED % PAGES[kind])
    except TemplateError as error:
        assert "t.html" in str(error)  # noqa: PT017 - some of these are only odd, and well-formed
    assert time.monotonic() - started < PATIENCE_SECONDS


def test_texts_of_another_count_are_refused() -> None:
    tree = assemble(Sandbox("vi", {}, DictLoader({"a": "x{{ x }}y"})), "a")
    with pytest.raises(TemplateError, match="frozen with 3 texts and now has 2"):
        styles.replace(tree, ["a", "b", "c"], "a")
