"""Files in TOML: what is wrong with one is a sentence that names the file, the key, what to do."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import pytest

from notifier.domain.calendar import HANOI, Window
from notifier.domain.campaign_files import (
    Definition,
    SenderTable,
    load_definition,
    load_sender,
    read_definition,
)
from notifier.domain.sources import load_sources
from notifier.domain.topics import load_topics
from notifier.errors import CampaignError, SettingsError
from notifier.rendering.blueprint import Sender
from notifier.rendering.catalogue import LANGUAGES, load_all
from notifier.sending.routes import DEFAULT_ROUTE, SANDBOX, load_routes
from notifier.settings import SmtpServer
from notifier.states import InDoubtPolicy
from notifier.testing import ROOT

CATALOGUE = load_all(ROOT / "templates")
RELAY = SmtpServer("relay.example.test", 25)
HEAD = 'title = "T"\ntopic = "debt-notice"\ntemplate = "debt-notice"\n'


def said(error: pytest.ExceptionInfo[Exception]) -> str:
    sentence = str(error.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


# --- campaigns ----------------------------------------------------------------------------------


def campaign(tmp_path: Path, text: str) -> Definition:
    path = tmp_path / "june.toml"
    path.write_text(text, encoding="utf-8")
    return load_definition(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = [", "june.toml cannot be read: "),
        ('topic = "a"\ntemplate = "b"\n', 'june.toml: title is missing. Write it as "…".'),
        (HEAD.replace('"T"', '" "'), 'june.toml: title is empty or not a text. Write it as "…".'),
        (HEAD.replace('"T"', "5"), "june.toml: title is empty or not a text."),
        (HEAD + "pace = 5\n", "june.toml has the unknown key pace. Known are: data, in_doubt, "),
        # The slip is named, not the key that is missing because of it.
        (HEAD.replace("title", "titel"), "june.toml has the unknown key titel."),
        (HEAD + "pace_per_minute = 0\n", "june.toml: pace_per_minute is not a whole number from 1"),
        (HEAD + "pace_per_minute = true\n", "june.toml: pace_per_minute is not a whole number"),
        (HEAD + 'pace_per_minute = "5"\n', "june.toml: pace_per_minute is not a whole number"),
        (HEAD + "pace_per_minute = 5.0\n", "june.toml: pace_per_minute is not a whole number"),
        (
            HEAD + 'in_doubt = "maybe"\n',
            "june.toml: in_doubt is neither resend nor hold. Correct or remove it.",
        ),
        (
            HEAD + "not_after = 2026-12-31\n",
            "june.toml: not_after is not a moment. Write it as 2026-12-31T17:00:00+07:00.",
        ),
        (HEAD + 'not_after = "2026-12-31"\n', "june.toml: not_after is not a moment."),
        (HEAD + 'not_after = "soon"\n', "june.toml: not_after is not a moment."),
        (HEAD + "not_after = 9999-12-31T23:59:00-12:00\n", "june.toml: not_after is not a moment."),
        (HEAD + "not_after = 1767225600\n", "june.toml: not_after is not a moment."),
        (HEAD + "list = 5\n", 'june.toml: list is not a file name. Write list = "list.csv".'),
        (HEAD + "sender = 5\n", "june.toml: sender is not a table. Write it as [sender]."),
        (HEAD + "data = 5\n", "june.toml: data is not a table. Write it as [data]."),
        (HEAD + "[sender]\nfax = '1'\n", "june.toml has the unknown key sender.fax. Known are: "),
        (HEAD + "[sender]\nphone = 1\n", "june.toml: sender.phone is empty or not a text."),
        (
            HEAD + '[window]\ndays = "some"\n',
            "june.toml: window.days is neither working nor all. Correct or remove it.",
        ),
        (
            HEAD + '[window]\nfrom = "25:00"\n',
            'june.toml: window.from is not an hour. Write window.from = "08:00".',
        ),
        (
            HEAD + '[window]\nfrom = "18:00"\n',
            "june.toml: window closes before it opens. Let from be earlier than to.",
        ),
    ],
)
def test_what_is_wrong_with_a_campaign_file(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(CampaignError) as error:
        campaign(tmp_path, text)
    assert sentence in said(error)


def test_a_whole_campaign_file(tmp_path: Path) -> None:
    found = campaign(
        tmp_path,
        HEAD.replace('"T"', '" T "')
        + "list = 'list.csv'\nnot_after = 2026-12-31T17:00:00\npace_per_minute = 60\n"
        "in_doubt = 'hold'\n[sender]\nphone = '024'\n[window]\nfrom = 09:00:00\n"
        "[data]\nas_of = 2026-10-31\nseen = 2026-10-31T08:00:00+07:00\nyear = 2026\n",
    )
    assert found == Definition(
        name="june",
        title="T",
        topic="debt-notice",
        template="debt-notice",
        audience=tmp_path / "list.csv",
        not_after=datetime(2026, 12, 31, 17, tzinfo=HANOI),
        pace_per_minute=60,
        in_doubt=InDoubtPolicy.HOLD,
        sender={"phone": "024"},
        window=Window("working", time(9), time(17)),
        data={"as_of": "2026-10-31", "seen": "2026-10-31T08:00:00+07:00", "year": 2026},
        text=(tmp_path / "june.toml").read_text(),
    )
    assert found.window is not None
    assert Window.from_json(found.window.to_json()) == found.window


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-12-31T17:00:00+07:00", datetime(2026, 12, 31, 10, tzinfo=UTC)),
        ("2026-12-31T10:00:00Z", datetime(2026, 12, 31, 10, tzinfo=UTC)),
        ("2026-12-31T17:00", datetime(2026, 12, 31, 10, tzinfo=UTC)),
    ],
)
def test_json_and_toml_are_read_alike(tmp_path: Path, value: str, moment: datetime) -> None:
    values: dict[str, Any] = {"title": "T", "topic": "t", "template": "t", "not_after": value}
    from_json = read_definition(
        json.loads(json.dumps(values)), name="june", shown="definition", text="", folder=tmp_path
    )
    quoted = "".join(f"{key} = {json.dumps(text)}\n" for key, text in values.items())
    assert from_json.not_after == campaign(tmp_path, quoted).not_after == moment
    assert from_json.not_after is not None
    assert from_json.not_after.tzinfo is not None


def test_every_campaign_file_of_the_project_is_read() -> None:
    paths = sorted((ROOT / "campaigns").glob("*.toml"))
    assert [load_definition(path).topic for path in paths] == [path.stem for path in paths]


def test_a_campaign_may_override_every_key_of_the_sender() -> None:
    assert {*SenderTable.model_fields, "public_url"} == {each.name for each in fields(Sender)}


def test_what_is_wrong_with_the_sender(tmp_path: Path) -> None:
    path = tmp_path / "sender.toml"
    whole = (ROOT / "templates" / "sender.toml").read_text(encoding="utf-8")
    path.write_text(whole, encoding="utf-8")
    assert load_sender(path, "https://x.test").phone == "024 0000 0000"
    for text, sentence in [
        (whole.replace("phone =", "fone ="), "sender.toml has the unknown key fone."),
        (whole.replace('phone = "024 0000 0000"', ""), "sender.toml: phone is missing. Add it."),
        ("x", "sender.toml cannot be read: "),
    ]:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SettingsError) as error:
            load_sender(path, "https://x.test")
        assert sentence in said(error)
    path.unlink()
    with pytest.raises(SettingsError, match=r"sender\.toml cannot be read: No such file"):
        load_sender(path, "https://x.test")


# --- topics -------------------------------------------------------------------------------------

TOPIC = """
[news]
name = { vi = "Tin", en = "News" }
statutory = false
in_doubt = "resend"
legal_ground = { vi = "Luật", en = "the law" }
description = { vi = "Tin mới.", en = "What is new." }
"""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("statutory = false", "statutory = 0", "Topic news: statutory is neither true nor false."),
        ('"resend"', '"later"', "Topic news: in_doubt is neither resend nor hold. Correct it."),
        ('vi = "Tin", ', "", 'Topic news: name.vi is missing. Write it as "…".'),
        ('vi = "Tin", ', 'vi = "", ', "Topic news: name.vi is empty or not a text."),
        ('vi = "Tin", ', 'fr = "Avis", ', "Topic news has the unknown key name.fr."),
        ("statutory", "statuary", "Topic news has the unknown key statuary. Known are: descr"),
        ("statutory = false", "", "Topic news: statutory is missing. Add it."),
        ("[news]", "note = 1\n[news]", "Topic note is not a table. Correct it."),
        ("[news]", "[news", "The topics file topics.toml cannot be read: "),
    ],
)
def test_what_is_wrong_with_a_topic(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "topics.toml"
    path.write_text(TOPIC, encoding="utf-8")
    found = load_topics(path)["news"]
    assert (found.statutory, found.in_doubt, found.info.name["vi"]) == (False, "resend", "Tin")
    assert set(found.info.description) == set(LANGUAGES)
    path.write_text(TOPIC.replace(old, new), encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        load_topics(path)
    assert sentence in said(error)


# --- sources ------------------------------------------------------------------------------------

SOURCE = """
title = "Cổng"
quiet_seconds = 60
[statuses.received]
name = "Tiếp nhận"
notice = "dossier-received"
waits = false
"""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("title", "titel", "sources/portal.toml has the unknown key titel."),
        ('title = "Cổng"', "", "sources/portal.toml: title is missing."),
        (
            "= 60",
            "= 604801",
            (
                "sources/portal.toml: quiet_seconds is not a whole number from 0 to 604800. "
                "Correct or remove it."
            ),
        ),
        ("= 60", "= 60\napology = 1", "sources/portal.toml: apology is neither true nor false."),
        (
            'name = "Tiếp nhận"',
            "",
            (
                "sources/portal.toml: statuses.received.name is missing. "
                "Write the status as the source's own people call it."
            ),
        ),
        (
            "waits",
            "wait",
            (
                "sources/portal.toml has the unknown key statuses.received.wait. "
                "Known are: closes, name, notice, waits."
            ),
        ),
        (
            "waits = false",
            "waits = 0",
            "sources/portal.toml: statuses.received.waits is neither true nor false.",
        ),
        ("dossier-received", "debt-notice", "is not of the topic dossier-status."),
        (
            "dossier-received",
            "nothing",
            "sources/portal.toml: statuses.received.notice names no template.",
        ),
        (
            "[statuses.received]",
            "[statuses]\nnew = 1\n[statuses.received]",
            "sources/portal.toml: statuses.new is not a table. Write it as [statuses.new].",
        ),
        (
            SOURCE,
            'title = "Cổng"\n[statuses]\n',
            "sources/portal.toml: statuses is empty. Add a table",
        ),
        (SOURCE, 'title = "Cổng"\n', "sources/portal.toml: statuses is missing. Add a table"),
    ],
)
def test_what_is_wrong_with_a_source(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "sources" / "portal.toml"
    path.parent.mkdir()
    path.write_text(SOURCE, encoding="utf-8")
    found = load_sources(path.parent, CATALOGUE)["portal"]
    assert (found.title, found.quiet_seconds, found.apology) == ("Cổng", 60, True)
    assert found.statuses["received"].notice == "dossier-received"
    path.write_text(SOURCE.replace(old, new), encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        load_sources(path.parent, CATALOGUE)
    assert sentence in said(error)


# --- routes -------------------------------------------------------------------------------------

ROUTES = """
[[route]]
name = "relay"
per_minute = 600
[[route]]
name = "big"
domains = ["Big.Example.test"]
smtp = "smtp://mx.example.test:2525"
connections = 4
"""


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("connections = 4", "connexions = 4", "Route big has the unknown key connexions."),
        ("connections = 4", "connections = -1", "Route big: connections is not a whole number of"),
        ("connections = 4", "connections = true", "Route big: connections is not a whole number"),
        (
            '["Big.Example.test"]',
            '"big.example.test"',
            'Route big: domains is not a list of names. Write domains = ["example.test"].',
        ),
        ('["Big.Example.test"]', "[5]", "Route big: domains is not a list of names."),
        ("smtp://mx", "http://mx", "smtp of route big is not an SMTP address."),
        ("smtp://mx", "smtp://a:b@mx", "Route big has a password in the routes file."),
        ('name = "big"', "", "Route 2: name is missing."),
        ('name = "big"', 'name = "relay"', "Two routes of the routes file have the name relay."),
        ('name = "big"', f'name = "{SANDBOX}"', "Two routes of the routes file have the name (sa"),
        # A list of another name would be looked over, and every limit with it.
        ("[[route]]", "[[routes]]", "The routes file routes.toml has the unknown key routes."),
        ("[[route]]", "[[route", "The routes file routes.toml cannot be read: "),
    ],
)
def test_what_is_wrong_with_a_route(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "routes.toml"
    path.write_text(ROUTES, encoding="utf-8")
    found = load_routes(RELAY, path)
    assert (found.default.name, found.default.per_minute) == (DEFAULT_ROUTE, 600)
    assert found.get(found.of_domain("big.example.test")).connections == 4
    path.write_text(ROUTES.replace(old, new), encoding="utf-8")
    with pytest.raises(SettingsError) as error:
        load_routes(RELAY, path)
    assert sentence in said(error)


def test_dates_of_a_campaign_are_json() -> None:
    data = load_definition(ROOT / "campaigns" / "debt-notice.toml").data
    assert data["as_of"] == date(2026, 10, 31).isoformat()
