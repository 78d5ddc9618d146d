"""Settings come from the environment alone; what is wrong with one is a sentence that names it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

from notifier.errors import SettingsError
from notifier.settings import INSTANCE_FILE, Settings, unknown_variables, variable
from notifier.testing import ROOT


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "CONNECTIONS",
            "many",
            "NOTIFIER_CONNECTIONS is not a whole number of 1 or more. Correct or unset it.",
        ),
        ("CONNECTIONS", "-7", "NOTIFIER_CONNECTIONS is not a whole number of 1 or more."),
        ("API_PER_MINUTE", "1.5", "NOTIFIER_API_PER_MINUTE is not a whole number of 1 or more."),
        ("METRICS_PORT", "70000", "NOTIFIER_METRICS_PORT is not a port from 0 to 65535."),
        ("LEASE_SECONDS", "-5", "NOTIFIER_LEASE_SECONDS is not a number of 0 or more."),
        ("LEASE_SECONDS", "nan", "NOTIFIER_LEASE_SECONDS is not a number of 0 or more."),
        ("SWEEP_SECONDS", "inf", "NOTIFIER_SWEEP_SECONDS is not a number of 0 or more."),
        (
            "RETRY_MINUTES",
            "5,,15",
            (
                "NOTIFIER_RETRY_MINUTES is not a list of minutes. "
                "Write it as 5,15,30,60,120,240 or unset it."
            ),
        ),
        ("RETRY_MINUTES", "5,-7", "NOTIFIER_RETRY_MINUTES is not a list of minutes."),
        (
            "TRUSTED_PROXIES",
            "proxy.example.test",
            (
                "NOTIFIER_TRUSTED_PROXIES is not a list of addresses. "
                "Write it as 10.0.0.5,192.168.7.0/24 or unset it."
            ),
        ),
        (
            "SECRET_KEY",
            "brief",
            (
                "NOTIFIER_SECRET_KEY is shorter than 32 characters. "
                "Use for example the output of: openssl rand -hex 32"
            ),
        ),
        (
            "SMTP_URL",
            "http://relay",
            (
                "NOTIFIER_SMTP_URL is not an SMTP address. "
                "Write it as smtp://host:25 or smtps://user:password@host."
            ),
        ),
        ("SMTP_URL", "smtp://relay:99999", "NOTIFIER_SMTP_URL is not an SMTP address."),
        ("SANDBOX_SMTP_URL", "smtp://[::1", "NOTIFIER_SANDBOX_SMTP_URL is not an SMTP address."),
        ("PUBLIC_URL", "ftp://x", "NOTIFIER_PUBLIC_URL is not a web address. Write it as https://"),
        ("PUBLIC_URL", "https://[x", "NOTIFIER_PUBLIC_URL is not a web address."),
        ("LOG_FORMAT", "xml", "NOTIFIER_LOG_FORMAT is not one of auto, console, json. Correct or"),
        ("LOG_LEVEL", "loud", "NOTIFIER_LOG_LEVEL is not one of DEBUG, INFO, WARNING, ERROR,"),
        ("WEBHOOKS_PRIVATE", "maybe", "NOTIFIER_WEBHOOKS_PRIVATE is neither true nor false."),
    ],
)
def test_what_is_wrong_is_one_sentence(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_env({f"NOTIFIER_{name}": value})
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
    # What was written may be a secret.
    assert value not in str(error.value)


def test_the_variables_are_read(tmp_path: Path) -> None:
    found = Settings.from_env(
        {
            "NOTIFIER_VAR": str(tmp_path),
            "NOTIFIER_CONNECTIONS": " 3 ",
            "NOTIFIER_RETRY_MINUTES": "5, 0.5",
            "NOTIFIER_TRUSTED_PROXIES": "10.0.0.5, 192.168.7.3/24",
            "NOTIFIER_LOG_LEVEL": "warning",
            "NOTIFIER_WEBHOOKS_PRIVATE": "TRUE",
            "NOTIFIER_PUBLIC_URL": "https://notices.example.test/",
            "NOTIFIER_DKIM_KEY_FILE": "key.pem",
            "NOTIFIER_DKIM_SELECTOR": "",
            "NOTIFIER_HOSTNAME": "  ",
            "notifier_connections": "4",
        }
    )
    assert (found.var, found.connections) == (tmp_path, 3)
    assert (found.retry_minutes, found.log_level) == ((5.0, 0.5), "WARNING")
    assert found.trusted_proxies == ("10.0.0.5/32", "192.168.7.0/24")
    assert (found.webhooks_private, found.public_url) == (True, "https://notices.example.test")
    assert found.dkim_key_file == Path("key.pem").absolute()
    # An empty variable, as docker-compose.yml passes it on, is an unset one.
    assert (found.dkim_selector, found.hostname) == (None, "notifier.example.test")
    assert Settings.from_env(found.to_env()) == found


def test_nothing_but_the_given_environment_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("NOTIFIER_CONNECTIONS=77\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTIFIER_CONNECTIONS", "66")
    assert Settings().connections == 8
    assert Settings.from_env({}).connections == 8
    assert Settings.from_env().connections == 66
    monkeypatch.delenv("NOTIFIER_CONNECTIONS")
    assert Settings.from_env().connections == 8


def test_the_folders_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = Settings.from_env({})
    assert (found.templates, found.sources) == (ROOT / "templates", ROOT / "sources")
    assert found.var == tmp_path / "var"
    (tmp_path / "templates").mkdir()
    assert Settings.from_env({}).campaigns == tmp_path / "campaigns"


def test_a_value_is_changed_in_a_copy_and_checked() -> None:
    before = Settings(connections=3)
    after = before.replace(lease_seconds=1)
    assert (before.lease_seconds, after.lease_seconds, after.connections) == (30.0, 1.0, 3)
    with pytest.raises(SettingsError, match="NOTIFIER_CONNECTIONS is not a whole number"):
        before.replace(connections=-1)
    with pytest.raises(SettingsError, match="Settings has the unknown key conections"):
        before.replace(conections=1)
    with pytest.raises(ValidationError):
        before.__setattr__("connections", 5)
    assert hash(before.replace()) == hash(before)


def test_secrets_are_not_shown() -> None:
    shown = Settings(
        secret_key="s" * 40,
        database_url="postgresql://u:word@h/n",
        broker_url="redis://:word@h",
        smtp_url="smtps://u:word@h",
        sandbox_smtp_url="smtps://u:word@h",
    )
    assert "word" not in repr(shown)
    assert "ssss" not in str(shown)


def test_unknown_variables_are_named_with_what_may_be_meant() -> None:
    assert unknown_variables(
        {
            "NOTIFIER_SMPT_URL": "smtp://relay",
            "NOTIFIER_COLOUR": "red",
            "NOTIFIER_VAR": "var",
            "PATH": "/bin",
        }
    ) == {"NOTIFIER_COLOUR": None, "NOTIFIER_SMPT_URL": "NOTIFIER_SMTP_URL"}
    assert unknown_variables(Settings().to_env()) == {}


def test_each_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith((".", "not.")), name
        assert field.examples, name
    notes = Settings.model_fields["lease_seconds"].json_schema_extra
    assert notes == {"unit": "seconds"}
    assert variable("lease_seconds") == "NOTIFIER_LEASE_SECONDS"


def test_the_example_of_each_setting_can_be_used() -> None:
    for name, field in Settings.model_fields.items():
        for example in field.examples or ():
            if "openssl" not in str(example):
                Settings.from_env({variable(name): example})


def test_a_running_instance_is_found_and_a_leftover_is_not(tmp_path: Path) -> None:
    note = {
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "database_url": "postgresql://u@h/n",
        "of_another_version": "x",
    }
    (tmp_path / INSTANCE_FILE).write_text(json.dumps(note))
    here = {"NOTIFIER_VAR": str(tmp_path)}
    assert Settings.from_env(here).database_url == "postgresql://u@h/n"
    given = Settings.from_env({**here, "NOTIFIER_DATABASE_URL": "postgresql://other"})
    assert given.database_url == "postgresql://other"
    leftovers: list[object] = [{**note, "started": 1.0}, [], {**note, "pid": "x"}]
    for leftover in leftovers:
        (tmp_path / INSTANCE_FILE).write_text(json.dumps(leftover))
        assert Settings.from_env(here).database_url is None
