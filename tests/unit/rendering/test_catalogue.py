"""Template folders: read, checked, frozen and thawed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from notifier.errors import TemplateError
from notifier.rendering.catalogue import (
    STANDARD_FIELDS,
    from_json,
    load_all,
    load_template,
    to_json,
)
from tests.unit.rendering.conftest import WriteTemplate

OPTIONAL_FIELD = '[fields.{name}]\ntype = "{type}"\nlabel = {{ vi = "a", en = "a" }}\n'
HEAD = 'topic = "service"\ntitle = { vi = "Thư", en = "Mail" }\nlanguages = ["vi"]\n'


def test_the_project_has_the_mails_of_its_stories(templates: Path) -> None:
    assert {"debt-notice", "tax-policy", "settlement-guidance", "unsubscribe-confirmation"} <= set(
        load_all(templates)
    )


def test_the_debt_notice_asks_for_few_columns(templates: Path) -> None:
    template = load_template(templates, "debt-notice")
    assert {
        each.name for each in template.fields if each.required and each.scope == "recipient"
    } == {"total_debt", "amount_payable"}
    assert {each.name for each in template.lines if each.required} == {
        "subsection_name",
        "amount",
        "due_date",
    }
    assert {each.name for each in template.fields if each.scope == "campaign"} == {
        "period",
        "as_of",
        "issue_date",
    }
    assert template.control_total == "total_debt"
    assert (
        "so_con_phai_nop" in next(each for each in template.lines if each.name == "amount").synonyms
    )


def test_no_two_columns_of_a_list_share_a_synonym(templates: Path) -> None:
    for template in load_all(templates).values():
        seen: dict[str, str] = {}
        for each in (*STANDARD_FIELDS, *template.fields, *template.lines):
            for word in {
                each.name,
                *(text.casefold() for text in (*each.synonyms, *each.label.values())),
            }:
                assert seen.setdefault(word, each.name) == each.name, f"{template.name}: {word}"


def test_a_frozen_template_comes_back_equal(templates: Path) -> None:
    for template in load_all(templates).values():
        assert from_json(json.loads(json.dumps(to_json(template)))) == template


def test_a_change_to_a_frozen_template_is_noticed(templates: Path) -> None:
    frozen = json.loads(json.dumps(to_json(load_template(templates, "debt-notice"))))
    frozen["sources"]["vi/body.txt"] += "!"
    with pytest.raises(TemplateError, match="changed after it was frozen"):
        from_json(frozen)


def test_the_version_is_the_same_on_every_load_and_another_after_any_edit(
    templates: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "templates"
    shutil.copytree(templates, copy)
    version = load_template(copy, "debt-notice").version
    assert version == load_template(templates, "debt-notice").version
    edits = {
        "debt-notice/en/subject.txt": ("Notice", "Letter"),
        "debt-notice/vi/body.html": ("Kính gửi", "Gửi"),
        "debt-notice/template.toml": ("tổng nợ", "nợ"),
        "debt-notice/example.json": ("Sông Hồng", "Sông Đà"),
        "_base/vi/opt-out.txt": ("nhận thư", "có thư"),
        "_base/layout.html": ("22px", "23px"),
    }
    for path, (old, new) in edits.items():
        place = copy / path
        before = place.read_text(encoding="utf-8")
        assert old.casefold() in before.casefold(), path
        place.write_text(before.replace(old, new).replace(old.upper(), new), encoding="utf-8")
        assert load_template(copy, "debt-notice").version != version, path
        place.write_text(before, encoding="utf-8")


def test_windows_line_ends_and_marks_are_the_same_template(write_template: WriteTemplate) -> None:
    root = write_template(text="Dòng một\nDòng hai: {{ note }}\n")
    version = load_template(root, "small").version
    place = root / "small/vi/body.txt"
    place.write_bytes(b"\xef\xbb\xbf" + place.read_bytes().replace(b"\n", b"\r\n"))
    assert load_template(root, "small").version == version


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("", "'topic' is missing"),
        ("topic = [", "not valid TOML"),
        (HEAD + "colour = 1\n", "'colour' is not known"),
        (HEAD.replace('vi = "Thư", ', ""), "'title' has no text for 'vi'"),
        (HEAD.replace('["vi"]', '["fr"]'), "'languages' must be"),
        (HEAD + 'control_total = "note"\n', "'control_total' must name a money field"),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="number"),
            r"'fields\.note\.type' must be one of",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="tax_code", type="text"),
            r"'fields\.tax_code' cannot be the name",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="sender", type="text"),
            r"'fields\.sender' cannot be the name",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="Note", type="text"),
            r"'fields\.Note' cannot be the name",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="text") + 'colour = "red"\n',
            r"'fields\.note\.colour' is not known",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="text") + 'synonyms = "x"\n',
            r"'fields\.note\.synonyms' must be a list",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="text") + 'scope = "world"\n',
            r"'fields\.note\.scope' must be",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="text") + "max_length = 0\n",
            r"'fields\.note\.required' must be",
        ),
    ],
)
def test_a_wrong_description_is_refused_by_name(
    write_template: WriteTemplate, toml: str, says: str
) -> None:
    with pytest.raises(TemplateError, match=says) as caught:
        load_template(write_template(toml=toml or "[fields]"), "small")
    assert "small/template.toml" in str(caught.value)


EXAMPLE = {"name": "An", "tax_code": "0100023459", "email": "an@example.test"}


@pytest.mark.parametrize(
    ("example", "says"),
    [
        ([], "does not hold an object"),
        ({**EXAMPLE, "email": None}, "has no 'email'"),
        ({**EXAMPLE, "colour": 1}, "'colour', which is no field"),
        ({**EXAMPLE, "note": 5}, "'note' is not of type text"),
        ({**EXAMPLE, "note": "x" * 501}, "'note' is not of type text"),
        ({**EXAMPLE, "lines": {}}, "'lines' must be a list"),
        ({**EXAMPLE, "lines": [{"price": 1}]}, "line 1 has 'price'"),
        ({**EXAMPLE, "lines": [5]}, "line 1 is not an object"),
    ],
)
def test_a_wrong_example_is_refused_by_field(
    write_template: WriteTemplate, example: Any, says: str
) -> None:
    with pytest.raises(TemplateError, match=says):
        load_template(write_template(example=example), "small")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ({"text": "{{ colour }}"}, r"small/vi/body\.txt uses 'colour'"),
        ({"html": "<p>{{ note </p>"}, r"small/vi/body\.html"),
        ({"subject": "one\ntwo"}, "more than one line"),
        ({"text": '{% include "../../secret" %}'}, r"small/\.\./\.\./secret is missing"),
        ({"text": '{% include "/etc/hostname" %}'}, "is missing"),
        ({"text": "x" * 70_000}, "larger than 64 kB"),
        (
            {"text": "{{ " + "(" * 5000 + "note" + ")" * 5000 + " }}"},
            r"small/vi/body\.txt is nested too deeply",
        ),
        ({"html": "<p>{{ note|safe }}</p>"}, "No filter named 'safe'"),
        ({"html": "{% autoescape false %}{{ note }}{% endautoescape %}"}, "cannot be used here"),
        ({"text": '{% import "x" as y %}'}, "cannot be used here"),
    ],
)
def test_texts_that_cannot_work_are_refused_when_loaded(
    write_template: WriteTemplate, texts: dict[str, str], says: str
) -> None:
    with pytest.raises(TemplateError, match=says):
        load_template(write_template(**texts), "small")


def test_a_missing_file_or_folder_is_named(write_template: WriteTemplate) -> None:
    root = write_template()
    (root / "small/vi/body.txt").unlink()
    with pytest.raises(TemplateError, match=r"small/vi/body\.txt is missing"):
        load_template(root, "small")
    for name in ("none", "../small", "_base"):
        with pytest.raises(TemplateError, match="There is no template"):
            load_template(root, name)


def test_text_that_is_not_utf8_is_named(write_template: WriteTemplate) -> None:
    root = write_template()
    (root / "small/vi/body.txt").write_bytes("Thuế".encode("utf-16"))
    with pytest.raises(TemplateError, match=r"small/vi/body\.txt is not UTF-8"):
        load_template(root, "small")
