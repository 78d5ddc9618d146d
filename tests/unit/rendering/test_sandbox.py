"""What a hostile template, or a hostile value, can do.

Nothing but fail, soon and without repeating data.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from notifier.errors import RenderError, TemplateError
from notifier.rendering.blueprint import Blueprint
from tests.unit.rendering.conftest import MakeBlueprint, MakeLetter

# Generous against a busy machine; what is tested ends by the limit of half a second and not by
# this.
PATIENCE_SECONDS = 5

DOUBLED = "{% set a = [note] %}" + "{% set a = [a, a] %}" * 40

ATTACKS = {
    "string times number": ("{{ 'a' * 1000000000 }}", r"operator \*"),
    "list times number": ("{{ [1] * 1000000000 }}", r"operator \*"),
    "power": ("{{ 10 ** 10 ** 8 }}", r"operator \*\*"),
    "power by products": (
        "{% set a = 7 %}" + "{% set a = a * a %}" * 60 + "{{ a }}",
        r"number .* too large",
    ),
    "string formatting": ("{{ '%1000000000d' % 1 }}", r"operator %"),
    "method format": ("{{ '{:>1000000000}'.format(1) }}", r"may not do"),
    "format of markup": ("{{ ('{:>1000000000}'|e).format(1) }}", r"may not do"),
    "method of a value": ("{{ note.upper() }}", r"may not do"),
    "long range": ("{% for i in range(1000000000) %}x{% endfor %}", r"more than 1000 numbers"),
    "nested ranges": (
        "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}"
        + "{% endfor %}" * 3,
        r"took too long",
    ),
    "nested loops with output": (
        "{% for a in range(1000) %}{% for b in range(1000) %}{{ note }}xxxxxxxxxxxxxxxxxx"
        + "{% endfor %}" * 2,
        r"larger than 256 kB",
    ),
    "large value in a loop": (
        "{% for a in range(1000) %}{{ large }}{% endfor %}",
        r"larger than 256 kB",
    ),
    "endless macro": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", r"without end"),
    "macro that doubles": (
        (
            "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
            "{{ m(60) }}"
        ),
        r"took too long",
    ),
    "macro that doubles its text": (
        (
            "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% else %}xxxxxxxx{% endif %}"
            "{% endmacro %}{{ m(24) }}"
        ),
        r"longer than 32768|took too long",
    ),
    "recursive loop": ("{% for a in [[1]] recursive %}{{ loop([a]) }}{% endfor %}", r"without end"),
    "text that doubles by ~": (
        "{% set a = 'xxxxxxxxxxxxxxxx' %}" + "{% set a = a ~ a %}" * 40 + "{{ a }}",
        r"longer than 32768",
    ),
    "text that doubles by +": (
        "{% set a = 'xxxxxxxxxxxxxxxx' %}" + "{% set a = a + a %}" * 40 + "{{ a }}",
        r"longer than 32768",
    ),
    "text that doubles by set": (
        "{% set a = 'xxxxxxxxxxxxxxxx' %}"
        + "{% set a %}{{ a }}{{ a }}{% endset %}" * 40
        + "{{ a }}",
        r"longer than 32768",
    ),
    "text that doubles by join": (
        "{% set a = 'xxxxxxxxxxxxxxxx' %}" + "{% set a = [a, a]|join(a) %}" * 40 + "{{ a }}",
        r"longer than 32768",
    ),
    "lists inside lists": (DOUBLED + "{{ a }}", r"holds more than 10000 values"),
    "lists inside lists compared": (
        DOUBLED + "{% set b = [note] %}" + "{% set b = [b, b] %}" * 40 + "{{ a == b }}",
        r"holds more than 10000 values",
    ),
    "tuples inside tuples as a key": (
        "{% set a = (1, 1) %}" + "{% set a = (a, a) %}" * 40 + "{{ {a: 1} }}",
        r"holds more than 10000 values",
    ),
    "dictionaries inside dictionaries": (
        "{% set a = {'x': 1} %}" + "{% set a = {'x': a, 'y': a} %}" * 40 + "{{ a }}",
        r"holds more than 10000 values",
    ),
    "a list as text": ("{{ [note, note] }}", r"without a text is printed"),
    "a list in capitals": ("{{ [note]|upper }}", r"without a text is printed"),
    "a list cut": ("{{ [note]|truncate(3) }}", r"without a text is printed"),
    "a list joined whole": ("{{ [[note]]|join }}", r"without a text is printed"),
    "a list beside a text": ("{{ 'x' ~ [note] }}", r"without a text is printed"),
    "a list escaped": ("{{ [note]|e }}", r"without a text is printed"),
    "a list in a macro": (
        "{% macro m(x) %}{{ x }}{% endmacro %}{{ m([note]) }}",
        r"without a text is printed",
    ),
    "a list in a set": ("{% set x %}{{ [note] }}{% endset %}{{ x }}", r"without a text is printed"),
    "a line as text": ("{{ lines[0] }}", r"without a text is printed"),
    "the loop as text": (
        "{% for line in lines %}{{ loop }}{% endfor %}",
        r"without a text is printed",
    ),
    "class of a value": ("{{ note.__class__.__mro__ }}", r"may not do"),
    "class by item": ("{{ note['__class__'] }}", r"may not do"),
    "class by map": ("{{ [note]|map(attribute='__class__')|first }}", r"may not do"),
    "globals of a macro": (
        "{% macro m() %}{% endmacro %}{{ m.__globals__ }}",
        r"'__globals__' is missing",
    ),
    "globals of the loop": (
        "{% for a in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
        r"may not do",
    ),
    "missing field of a line": (
        "{% for line in lines %}{{ line.price }}{% endfor %}",
        r"'price' is missing",
    ),
    "printing what is absent": ("{{ absent }}", r"although it is absent"),
    "names from data": ("{{ lines[0][note] }}", r"A value is missing"),
    "caller that repeats": (
        "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}{% call m() %}{% call m() %}"
        + "{{ large }}" * 9
        + "{% endcall %}" * 2,
        r"longer than 32768",
    ),
}
TOML = (
    'topic = "service"\ntitle = { vi = "Thư", en = "Mail" }\nlanguages = ["vi"]\n'
    '[fields.note]\ntype = "text"\nlabel = { vi = "a", en = "a" }\n'
    '[fields.absent]\ntype = "text"\nlabel = { vi = "a", en = "a" }\n'
    '[fields.large]\ntype = "text"\nmax_length = 10000\nlabel = { vi = "a", en = "a" }\n'
    '[lines.item]\ntype = "text"\nlabel = { vi = "a", en = "a" }\n'
)
DATA = {"note": "Nguyễn Văn Bí Mật", "large": "ế" * 9_000, "lines": [{"item": "x"}]}


def fill(
    blueprint: Blueprint, make_letter: MakeLetter, data: dict[str, Any] | None = None
) -> bytes:
    return blueprint.fill(make_letter(blueprint.template, data=data or DATA))


@pytest.mark.parametrize("part", ["text", "html"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_ends_in_an_error_within_the_limits(
    small_blueprint: MakeBlueprint, make_letter: MakeLetter, attack: str, part: str
) -> None:
    template, reason = ATTACKS[attack]
    blueprint = small_blueprint({"max_seconds": 0.5}, toml=TOML, **{part: template})
    started = time.monotonic()
    with pytest.raises(RenderError, match=reason) as caught:
        fill(blueprint, make_letter)
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert "The template 'small' (vi, body." in str(caught.value)
    for secret in ("Bí Mật", "Nguyễn", "ếế"):
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{{ self }}",
        "{% macro m() %}{{ m(varargs, varargs) }}{% endmacro %}{{ m(1) }}",
        "{% macro m() %}{{ m(x=kwargs, y=kwargs) }}{% endmacro %}{{ m(x=1) }}",
        "{{ note|format }}",
        "{{ note|center(9) }}",
        "{{ note|attr('x') }}",
        "{{ note|safe }}",
    ],
)
def test_what_no_template_needs_does_not_compile(small_blueprint: MakeBlueprint, text: str) -> None:
    with pytest.raises(TemplateError, match=r"small/vi/body\.txt"):
        small_blueprint(toml=TOML, text=text)


def test_loops_up_to_the_limits_are_no_attack(
    small_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    blueprint = small_blueprint(
        toml=TOML,
        text="{% for a in range(1000) %}{{ loop.index }}{% if not loop.last %},{% endif %}"
        "{% endfor %}",
    )
    assert blueprint.preview(make_letter(blueprint.template, data=DATA)).text == ",".join(
        map(str, range(1, 1001))
    )


@pytest.mark.parametrize("part", ["text", "html"])
def test_the_size_limit_is_that_of_the_caller(
    small_blueprint: MakeBlueprint, make_letter: MakeLetter, part: str
) -> None:
    blueprint = small_blueprint({"max_bytes": 4096}, toml=TOML, **{part: "{{ note }}"})
    assert fill(blueprint, make_letter)
    with pytest.raises(RenderError, match="larger than 4 kB"):
        fill(blueprint, make_letter, {**DATA, "note": "x" * 5000})


def test_missing_values_are_named(small_blueprint: MakeBlueprint, make_letter: MakeLetter) -> None:
    blueprint = small_blueprint(
        toml=TOML, text="{% for line in lines %}{{ line.price }}{% endfor %}"
    )
    with pytest.raises(RenderError, match="'price' is missing"):
        fill(blueprint, make_letter)


def test_data_is_escaped_in_html_and_not_in_text(
    small_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    show = (
        "{{ note }}|{{ note|upper }}|{{ lines[0].item }}|{% set a = note %}{{ a }}|"
        "{{ [note, note]|join('<') }}|{{ note ~ '<' }}"
    )
    blueprint = small_blueprint(
        toml=TOML, text=show, html=f'<p>{show}</p><p title="{{{{ note }}}}">x</p>'
    )
    note = '<script>alert("1")</script>&\''
    preview = blueprint.preview(
        make_letter(blueprint.template, data={**DATA, "note": note, "lines": [{"item": note}]})
    )
    assert preview.text == f"{note}|{note.upper()}|{note}|{note}|{note}<{note}|{note}<"
    assert "<script>" not in preview.html.casefold()
    assert preview.html.count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;&amp;&#39;") == 7


def test_a_value_that_equals_a_piece_of_the_template_is_still_escaped(
    small_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    blueprint = small_blueprint(toml=TOML, html="<p>{{ note }}</p>{% if large %}<br>{% endif %}")
    preview = blueprint.preview(make_letter(blueprint.template, data={**DATA, "note": "<br>"}))
    assert "<p>&lt;br&gt;</p><br>" in preview.html


def test_a_macro_gives_markup_and_escapes_what_it_is_given(
    small_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    html = (
        "{% macro cell(x) %}<b>{{ x }}</b>{% endmacro %}<p>{{ cell(note) }}</p>"
        "{% set y %}<i>{{ note }}</i>{% endset %}<p>{{ y }}</p>"
    )
    blueprint = small_blueprint(toml=TOML, html=html)
    preview = blueprint.preview(make_letter(blueprint.template, data={**DATA, "note": "a<b"}))
    assert "<p><b>a&lt;b</b></p><p><i>a&lt;b</i></p>" in preview.html


def test_template_syntax_in_data_is_only_text(
    small_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    blueprint = small_blueprint(toml=TOML, text="{{ note }}", subject="{{ note }}")
    preview = blueprint.preview(
        make_letter(blueprint.template, data={**DATA, "note": "{{ sender.name }}{% for %}"})
    )
    assert preview.text == "{{ sender.name }}{% for %}"
    assert preview.subject == "{{ sender.name }}{% for %}"


def test_fields_named_like_methods_are_fields(
    small_blueprint: MakeBlueprint, make_letter: MakeLetter
) -> None:
    toml = TOML.replace("[lines.item]", "[lines.items]")
    blueprint = small_blueprint(toml=toml, text="{{ lines[0].items }}")
    assert (
        blueprint.preview(make_letter(blueprint.template, data={"lines": [{"items": "x"}]})).text
        == "x"
    )


@pytest.mark.parametrize(
    "text",
    [
        "{{ sender }}",
        "{{ sender.secret }}",
        "{% set sender = 1 %}",
        "{% for language in [1] %}{% endfor %}",
    ],
)
def test_what_the_office_says_of_itself_cannot_be_replaced(
    small_blueprint: MakeBlueprint, text: str
) -> None:
    with pytest.raises(TemplateError, match=r"small/vi/body\.txt, line 1"):
        small_blueprint(toml=TOML, text=text)
