"""Files become one source; styles go into elements while every Jinja tag keeps its place."""

from __future__ import annotations

import pytest

from notifier.errors import TemplateError
from notifier.rendering.assembly import flatten, inline_styles


def join(**files: str) -> str:
    named = {name.replace("_", "/"): text for name, text in files.items()}
    return flatten("start", lambda path: named[path], language="vi")


def test_blocks_of_a_child_replace_those_of_its_parent() -> None:
    child = '{% extends "parent" %}\n{% block a %}new {{ x }}{% endblock %}'
    assert (
        join(start=child, parent="<{% block a %}old{% endblock %}|{% block b %}kept{% endblock %}>")
        == "<new {{ x }}|kept>"
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
    assert join(start="""{{ "}}" }}{{ '%}' }}""") == """{{ "}}" }}{{ '%}' }}"""


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"start": '{% include "start" %}'}, "includes itself"),
        ({"start": '{% extends "start" %}'}, "includes itself"),
        ({"start": "{% block a %}x"}, "does not end its block 'a'"),
        ({"start": "x{% endblock %}"}, "endblock without its block"),
        ({"start": 'x{% extends "p" %}', "p": ""}, "must be the first tag"),
        ({"start": '{% extends "p" %}lost text', "p": ""}, "outside its blocks"),
        (
            {"start": '{% include "big" %}' * 9, "big": "x" * 40_000},
            "together are larger than 256 kB",
        ),
    ],
)
def test_files_that_cannot_be_joined_are_named(files: dict[str, str], says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        join(**files)


STYLED = "<html><head><style>td{color:red}@media (max-width:9px){td{color:blue !important}}</style></head><body>%s</body></html>"


def test_rules_go_into_elements_and_media_rules_stay() -> None:
    html = inline_styles(STYLED % "<table><tbody><tr><td>x</td></tr></tbody></table>", "t.html")
    assert '<td style="color:red">x</td>' in html
    assert "@media (max-width:9px)" in html
    assert "blue !important" in html


def test_tags_between_table_rows_stay_between_table_rows() -> None:
    body = "<table><tbody>{% for l in lines %}<tr>{% if l.a %}<td>{{ l.a }}</td>{% endif %}</tr>{% endfor %}</tbody></table>"
    html = inline_styles(STYLED % body, "t.html")
    styled = body.replace("<td>", '<td style="color:red">')
    assert styled in html


def test_tags_in_attributes_titles_and_comments_come_back_as_they_were() -> None:
    body = "<!-- {{ a }} --><p title='{{ \"<b>\" }}'><a href=\"{{ url }}?x=1&amp;y={{ y }}\">{{ 'a' if x < 2 }}</a></p>"
    source = STYLED.replace("<head>", "<head><title>{{ t }}</title>") % body
    html = inline_styles(source, "t.html")
    for piece in (
        "<title>{{ t }}</title>",
        "<!-- {{ a }} -->",
        '{{ "<b>" }}',
        "{{ url }}?x=1&amp;y={{ y }}",
        "{{ 'a' if x < 2 }}",
    ):
        assert piece in html


@pytest.mark.parametrize(
    "body",
    [
        "<table><tr><td>no tbody</td></tr></table>",
        "<table><tbody>{{ x }}<tr><td>y</td></tr>text</tbody></table>",
        "{% if a %}<p>one{% else %}<p>two{% endif %}</p>",
        "<p>one<p>two</p>",
    ],
)
def test_html_that_a_parser_would_change_is_refused(body: str) -> None:
    with pytest.raises(TemplateError, match=r"t\.html is not well-formed HTML"):
        inline_styles(STYLED % body, "t.html")


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
        inline_styles(STYLED % ("\n" + body), "t.html")


@pytest.mark.parametrize(
    "head",
    ['<link rel="stylesheet" href="http://127.0.0.1:9/x.css">', "<meta charset='utf-8'><p>x</p>"],
)
def test_a_head_with_anything_to_fetch_or_show_is_refused(head: str) -> None:
    with pytest.raises(TemplateError, match="not well-formed"):
        inline_styles(f"<html><head>{head}</head><body><p>x</p></body></html>", "t.html")
