"""Template folders: read, checked, frozen and thawed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from notifier.errors import TemplateError
from notifier.rendering import catalogue
from notifier.rendering.catalogue import (
    STANDARD_FIELDS,
    from_json,
    load_all,
    load_template,
    to_json,
)
from tests.unit.rendering.conftest import TEMPLATES, WriteTemplate

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
    frozen["files"]["vi/body.txt"] += "!"
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
        ("", r"template\.toml: topic is missing"),
        ("topic = [", "not valid TOML"),
        (HEAD + "colour = 1\n", "has the unknown key colour"),
        (HEAD.replace('vi = "Thư", ', ""), "title has no text for 'vi'"),
        (HEAD.replace('["vi"]', '["fr"]'), "languages must be"),
        (HEAD + 'control_total = "note"\n', "control_total must name a money field"),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="number"),
            r"fields\.note\.type must be one of",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="tax_code", type="text"),
            r"fields has the key tax_code, which cannot be the name",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="sender", type="text"),
            r"fields has the key sender, which cannot be the name",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="Note", type="text"),
            r"fields has the key Note, which cannot be the name",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="text") + 'colour = "red"\n',
            r"has the unknown key fields\.note\.colour",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="text") + 'synonyms = "x"\n',
            r"fields\.note\.synonyms must be a list",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="text") + 'scope = "world"\n',
            r"fields\.note\.scope must be",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="text") + "max_length = 0\n",
            r"fields\.note\.max_length must be",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="text") + 'required = "yes"\n',
            r"fields\.note\.required must be true or false",
        ),
        (
            HEAD + OPTIONAL_FIELD.format(name="note", type="text") + "minimum = 1\n",
            r"fields\.note\.minimum is for fields of type money or integer",
        ),
        (
            HEAD + "[fields.note]\n" + 'type = "text"\nlabel = { vi = "a" }\n',
            r"fields\.note\.label has no text for 'en'",
        ),
        (HEAD + "fields = 1\n", "fields is not a table"),
        (HEAD + "[fields]\nnote = 1\n", r"fields\.note is not a table"),
        (
            HEAD
            + OPTIONAL_FIELD.format(name="note", type="text").replace("fields", "lines")
            + 'scope = "campaign"\n',
            r"lines has the field note of scope campaign",
        ),
        (HEAD + "x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        (HEAD + "x = " + "1" * 5000, "not valid TOML"),
        (HEAD + ".".join("a" * 30_000) + " = 1", "more than 100 dots"),
        (HEAD + 'fields_from = "fields.toml"\n', "fields_from must be a file such as"),
        (
            HEAD + "fields_from = 1\n",
            "fields_from must be a file such as",
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


def test_shared_fields_stand_once_and_a_template_may_change_a_key(
    write_template: WriteTemplate,
) -> None:
    shared = OPTIONAL_FIELD.format(name="first", type="text") + OPTIONAL_FIELD.format(
        name="sum", type="money"
    )
    root = write_template(
        toml=HEAD
        + 'fields_from = "_base/some-fields.toml"\n[fields.sum]\nrequired = true\n'
        + OPTIONAL_FIELD.format(name="note", type="text"),
        example={**EXAMPLE, "sum": 5},
    )
    with pytest.raises(TemplateError, match=r"The file _base/some-fields\.toml is missing"):
        load_template(root, "small")
    place = root / "_base" / "some-fields.toml"
    place.parent.mkdir()
    place.write_text(shared, encoding="utf-8")
    template = load_template(root, "small")
    assert [(each.name, each.type, each.required) for each in template.fields] == [
        ("first", "text", False),
        ("sum", "money", True),
        ("note", "text", False),
    ]
    place.write_text(shared.replace("money", "integer"), encoding="utf-8")
    assert load_template(root, "small").version != template.version
    for wrong, says in (
        ("[fields.x]\n", r"_base/some-fields\.toml: fields\.x\.type is missing"),
        ('topic = "service"\n', r"_base/some-fields\.toml has the unknown key topic"),
        ("fields = 3\n", r"_base/some-fields\.toml: fields is not a table"),
    ):
        place.write_text(wrong, encoding="utf-8")
        with pytest.raises(TemplateError, match=says):
            load_template(root, "small")


def test_what_leads_out_of_the_folder_is_refused(
    write_template: WriteTemplate, tmp_path: Path
) -> None:
    root = write_template(text='{% include "vi/other.txt" %}')
    secret = tmp_path / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    link = root / "small/vi/other.txt"
    for target in (secret, Path("../../../secret.txt"), Path("/dev/zero"), root / "other/x.txt"):
        link.symlink_to(target)
        with pytest.raises(TemplateError, match=r"small/vi/other\.txt is (a link that|missing)"):
            load_template(root, "small")
        link.unlink()
    (root / "small/vi/real.txt").write_text("real", encoding="utf-8")
    link.symlink_to("real.txt")
    assert load_template(root, "small").files["vi/other.txt"] == "real"
    link.unlink()
    link.symlink_to("other.txt")
    with pytest.raises(TemplateError, match=r"small/vi/other\.txt is missing"):
        load_template(root, "small")
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(TemplateError, match=r"small/vi/other\.txt is missing"):
        load_template(root, "small")
    moved = tmp_path / "elsewhere"
    (root / "small").rename(moved)
    (root / "small").symlink_to(moved)
    with pytest.raises(TemplateError, match=r"small/template\.toml is a link that leads out"):
        load_template(root, "small")


def beside(root: Path, name: str, **parts: str) -> None:
    """Copy the small template under another name, with other texts for some of its parts."""
    shutil.copytree(root / "small", root / name)
    for part, text in parts.items():
        (root / name / "vi" / part.replace("_", ".")).write_text(text, encoding="utf-8")


def test_a_template_that_fails_costs_itself_alone(write_template: WriteTemplate) -> None:
    root = write_template()
    beside(root, "wrong", body_txt="{{ colour }}")
    beside(root, "deep", body_html="<div>" * 12_000)
    beside(root, "unrendered", body_txt="{{ note + 1 }}")
    beside(root, "Bad Name")
    beside(root, "zoo")
    found = load_all(root)
    assert list(found) == ["small", "zoo"]
    assert len(found) == 2
    assert found["zoo"] == load_template(root, "zoo")
    assert sorted(found.broken) == ["Bad Name", "deep", "unrendered", "wrong"]
    assert "wrong" not in found
    for ask in (found.__getitem__, found.get):
        with pytest.raises(TemplateError, match=r"wrong/vi/body\.txt uses 'colour'"):
            ask("wrong")
    with pytest.raises(TemplateError, match=r"The template 'unrendered' \(vi, body\.txt\) failed"):
        found["unrendered"]
    assert found.get("none") is None
    with pytest.raises(KeyError):
        found["none"]
    with pytest.raises(TemplateError, match=r"deep: .*inside each other.*wrong: wrong/vi/body"):
        found.require_all()


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os; os.abort()", "ends the program that reads it"),
        ("bytearray(4 << 30)", "takes too much memory"),
        ("while True: pass", "takes too long to compile"),
    ],
)
def test_what_ends_or_holds_the_reader_costs_one_template(
    write_template: WriteTemplate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    says: str,
) -> None:
    root = write_template()
    beside(root, "evil")
    beside(root, "zoo")
    # The hole that nobody knows of: a reader that does this when it reads one template.
    package = tmp_path / "package"
    shutil.copytree(TEMPLATES.parent / "notifier" / "rendering", package / "notifier/rendering")
    for name in ("__init__.py", "errors.py", "validation.py"):
        shutil.copy(TEMPLATES.parent / "notifier" / name, package / "notifier" / name)
    loading = package / "notifier/rendering/loading.py"
    text = loading.read_text(encoding="utf-8")
    start = "    if not _NAME.fullmatch(name)"
    assert start in text
    loading.write_text(
        text.replace(start, f"    if name == 'evil':\n        {code}\n{start}"), encoding="utf-8"
    )
    monkeypatch.setattr(catalogue, "__file__", str(package / "notifier/rendering/catalogue.py"))
    monkeypatch.setattr(catalogue, "MAX_SECONDS", 1)
    found = load_all(root)
    assert list(found) == ["small", "zoo"]
    with pytest.raises(TemplateError, match=says):
        found["evil"]


def test_a_folder_is_tried_again_only_when_it_has_changed(write_template: WriteTemplate) -> None:
    root = write_template()
    first = load_all(root)
    assert load_all(root) is first
    (root / "small/vi/body.txt").write_text("other", encoding="utf-8")
    assert load_all(root)["small"].version != first["small"].version


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
