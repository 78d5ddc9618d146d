"""One rule for all doors: what one of them takes, the others take, and it renders."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from notifier.audience.cells import CellError
from notifier.audience.fields import PARSERS
from notifier.domain.campaign_files import check_data, read_definition
from notifier.errors import CampaignError, TemplateError
from notifier.rendering.blueprint import Blueprint
from notifier.rendering.catalogue import Template, faults, load_template
from notifier.rendering.description import read_example
from notifier.rendering.fields import (
    FIELD_TYPES,
    MAX_INTEGER,
    MAX_MONEY,
    Field,
    as_json,
    problem_of,
)
from notifier.rendering.folder import Folder
from tests.unit.rendering.conftest import MakeBlueprint, MakeLetter

SHOWN = {
    "text": "{{ %s }}{{ %s|upper }}",
    "money": "{{ %s|money }}{{ %s|words }}",
    "integer": "{{ %s|number }}{{ %s + 1 }}",
    "date": "{{ %s|date_long }}{{ %s|month }}{{ %s|date }}",
    "datetime": "{{ %s|date_time }}{{ %s|date }}",
}
TOML = (
    'topic = "service"\ntitle = { vi = "Thư", en = "Mail" }\nlanguages = ["vi", "en"]\n'
    + "".join(
        f'[fields.{kind}_{scope}]\ntype = "{kind}"\nscope = "{scope}"\nmax_length = 40\n'
        'label = { vi = "a", en = "a" }\n'
        for kind in FIELD_TYPES
        for scope in ("recipient", "campaign")
    )
)
TEXT = "".join(
    f"{{% if {name} is not none %}}{show.replace('%s', name)}{{% endif %}}\n"
    for kind, show in SHOWN.items()
    for name in (f"{kind}_recipient", f"{kind}_campaign")
)
STANDARD = {"name": "An", "tax_code": "0100023459", "email": "an@example.test"}

json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(
        [0, -1, MAX_MONEY, MAX_MONEY + 1, -MAX_MONEY, MAX_INTEGER, MAX_INTEGER + 1, 10**30]
    ),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.dates().map(str),
    st.datetimes().map(datetime.isoformat),
    st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
    st.sampled_from(
        [
            *("2026-10-31T17:00:00+07:00", "2026-10-31T17:00:00", "2026-10-31T10:00Z"),
            *("2026-10-31", "20261031", "2026-W44-6", "1899-12-31", "2200-01-02", "0001-01-01"),
            *("2026-10-31T17", "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+14:00"),
            *("x\0y", "x\ny", "", " ", "ế" * 40, "x" * 41, "{{ x }}", "1.234"),
        ]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of templates with one that has a field of each type and scope."""
    root = tmp_path_factory.mktemp("doors")
    for language in ("vi", "en"):
        (root / "small" / language).mkdir(parents=True)
        (root / "small" / language / "subject.txt").write_text("Thư", encoding="utf-8")
        (root / "small" / language / "body.txt").write_text(TEXT, encoding="utf-8")
        (root / "small" / language / "body.html").write_text(
            f"<html><head><title>x</title></head><body>\n<p>{TEXT}</p>\n</body></html>",
            encoding="utf-8",
        )
    (root / "small/template.toml").write_text(TOML, encoding="utf-8")
    (root / "small/example.json").write_text(json.dumps(STANDARD), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def template(place: Path) -> Template:
    """Return it, read."""
    return load_template(place, "small")


@pytest.fixture(scope="module")
def blueprints(template: Template, make_blueprint: MakeBlueprint) -> list[Blueprint]:
    """Return it, compiled."""
    return [make_blueprint(template, language=language) for language in ("vi", "en")]


def takes(door: Callable[[], object]) -> bool:
    """Say whether a door takes a value; it may refuse only with a sentence."""
    try:
        door()
    except (CampaignError, TemplateError) as error:
        assert str(error)[-1] in ".…"  # noqa: PT017 - what it says is judged below by kind
        return False
    return True


@pytest.mark.parametrize("kind", FIELD_TYPES)
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(value=json_values)
@example(value="2026-10-31T17:00:00")
def test_all_doors_take_the_same_values_and_what_they_take_renders(
    place: Path,
    template: Template,
    blueprints: list[Blueprint],
    make_letter: MakeLetter,
    kind: str,
    value: Any,
) -> None:
    name = f"{kind}_campaign"
    field = next(each for each in template.fields if each.name == name)
    fits = value is None or problem_of(field, value) is None
    assert (faults(template, {name: value}) == []) == fits
    shown = place / "small" / "example.json"
    shown.write_text(json.dumps({**STANDARD, name: value}), encoding="utf-8")
    assert takes(lambda: read_example(Folder(place, "small"), template.fields, ())) == fits
    if value is not None:
        given_values = {"title": "x", "topic": "x", "template": "small", "data": {name: value}}
        definition = read_definition(given_values, name="x", shown="x.toml", text="", folder=Path())
        assert takes(lambda: check_data(definition, template)) == fits
    if fits:
        for blueprint in blueprints:
            blueprint.fill(make_letter(template, data={name: value}))


cells = st.one_of(
    json_values.filter(lambda value: not isinstance(value, (list, dict))),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.just(timezone(timedelta(hours=-5)))),
    st.integers(0, 10**16).map(lambda number: f"{number:,} đồng".replace(",", ".")),
    st.dates().map(lambda day: f"{day:%d/%m/}{day.year:04}"),
    st.dates().map(lambda day: f"{day:%d/%m/}{day.year:04} 9:05"),
    st.text("0123456789.,-() đ", max_size=20),
    st.text(max_size=60),
)


@pytest.mark.parametrize("kind", FIELD_TYPES)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cell=cells)
def test_what_a_list_brings_fits_and_renders(
    template: Template,
    blueprints: list[Blueprint],
    make_letter: MakeLetter,
    kind: str,
    cell: Any,
) -> None:
    name = f"{kind}_recipient"
    field = next(each for each in template.fields if each.name == name)
    try:
        value = PARSERS[kind](cell, field)
    except CellError as error:
        assert (bool(error.code), error.vi[-1] in ".?") == (True, True)  # noqa: PT017 - any will do
        return
    assert faults(template, {name: value}) == []
    for blueprint in blueprints:
        blueprint.fill(make_letter(template, data={name: value}))


@pytest.mark.parametrize("kind", [each for each in FIELD_TYPES if each != "text"])
@given(value=json_values)
def test_a_list_takes_what_the_other_doors_take(kind: str, value: Any) -> None:
    field = Field(
        "x", kind, {"vi": "x", "en": "x"}, minimum=-MAX_INTEGER if kind == "integer" else None
    )
    if value is None or problem_of(field, value) is not None:
        return
    if kind == "datetime":
        # Spreadsheets write the usual form; the others of ISO 8601 are for machines.
        value = datetime.fromisoformat(value).isoformat(timespec="microseconds")
        if len(value) != len("2026-10-31T17:00:00.000000+07:00"):
            return
        assert datetime.fromisoformat(PARSERS[kind](value, field)) == datetime.fromisoformat(value)
    else:
        assert PARSERS[kind](value, field) == value


def test_the_toml_of_a_campaign_may_name_no_zone(template: Template) -> None:
    values = {
        "title": "x",
        "topic": "x",
        "template": "small",
        "data": {
            "datetime_campaign": datetime(2026, 10, 31, 17),
            "date_campaign": date(2026, 1, 2),
        },
    }
    definition = read_definition(values, name="x", shown="x.toml", text="", folder=Path())
    assert check_data(definition, template) == {
        "datetime_campaign": "2026-10-31T17:00:00+07:00",
        "date_campaign": "2026-01-02",
    }
    assert as_json(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00+00:00"
    assert as_json([1]) == [1]


def field(kind: str, **more: Any) -> Field:
    return Field("x", kind, {"vi": "x", "en": "x"}, **more)


@pytest.mark.parametrize(
    ("asked", "value", "code"),
    [
        (field("text", max_length=3), "abcd", "too-long"),
        (field("text"), 5, "type"),
        (field("text"), "a\0b", "characters"),
        (field("text"), "\ud800", "characters"),
        (field("money"), True, "type"),
        (field("money"), 1.0, "type"),
        (field("money"), "1", "type"),
        (field("money"), -1, "money-negative"),
        (field("money"), MAX_MONEY + 1, "money-range"),
        (field("money", minimum=1_000), 999, "money-range"),
        (field("money", minimum=1_000), -1, "money-negative"),
        (field("money", minimum=-1_000), -1_001, "money-range"),
        (field("money", minimum=-MAX_MONEY), -MAX_MONEY - 1, "money-range"),
        (field("integer", minimum=1), 0, "integer-range"),
        (field("integer"), MAX_INTEGER + 1, "integer-range"),
        (field("date"), "20261031", "type"),
        (field("date"), "2026-10-31T00:00:00+07:00", "type"),
        (field("date"), "1899-12-31", "date-range"),
        (field("datetime"), "2026-10-31T00:00:00", "type"),
        (field("datetime"), "2026-10-31", "type"),
        (field("datetime"), "2200-01-02T00:00:00+07:00", "date-range"),
        (field("datetime"), 5, "type"),
    ],
)
def test_a_problem_has_a_code_and_says_what_to_do(asked: Field, value: Any, code: str) -> None:
    problem = problem_of(asked, value)
    assert problem is not None
    assert problem.code == code
    assert problem.vi.endswith(".")
    assert problem.en.endswith(".")


@pytest.mark.parametrize(
    ("asked", "value"),
    [
        (field("text"), "Dòng một\nDòng hai\tx"),
        (field("text"), ""),
        (field("money"), 0),
        (field("money"), MAX_MONEY),
        (field("money", minimum=-MAX_MONEY), -MAX_MONEY),
        (field("integer"), -MAX_INTEGER),
        (field("date"), "1900-01-01"),
        (field("datetime"), "2026-10-31T10:00Z"),
    ],
)
def test_what_is_at_the_edge_fits(asked: Field, value: Any) -> None:
    assert problem_of(asked, value) is None


def test_a_required_text_of_spaces_is_missing(template: Template) -> None:
    needed = replace(
        template, fields=tuple(replace(each, required=True) for each in template.fields[:1])
    )
    name = needed.fields[0].name
    for nothing in ({}, {name: None}, {name: ""}, {name: " \n"}):
        assert [code for _, code, _ in faults(needed, nothing)] == ["missing"]
    assert faults(needed, {name: "x"}) == []
    assert faults(template, {"a/b~": 1})[0][:2] == ("/a~1b~0", "unknown")
