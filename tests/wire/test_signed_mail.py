"""From `notifier dkim create` to the mail that arrives: what comes is signed as DNS says."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from notifier import cli
from notifier.cli.demo import write_list
from notifier.domain.campaign_files import load_definition
from notifier.errors import CampaignError, SettingsError
from notifier.flows import proofs as proof
from notifier.flows.launch import launch
from notifier.instance.servers.catcher import Catcher
from notifier.instance.servers.mailbox import Mailbox
from notifier.rendering.dkim import DkimSigner
from notifier.services import Services
from notifier.settings import Settings
from notifier.testing import ROOT
from tests.unit.rendering.test_dkim import verified
from tests.wire.test_sender import World


@pytest.fixture
def signing(settings: Settings) -> Settings:
    """Settings after an operator has made a key and named it."""
    done = CliRunner().invoke(
        cli.app, ["dkim", "create", "s2026"], env=settings.to_env(), catch_exceptions=False
    )
    assert done.exit_code == 0
    values = dict(re.findall(r"(NOTIFIER_DKIM_\w+)=(\S+)", done.stderr.replace("\n", " ")))
    assert stat.S_IMODE(Path(values["NOTIFIER_DKIM_KEY_FILE"]).stat().st_mode) == 0o600
    return Settings.from_env({**settings.to_env(), **values})


@pytest.fixture
def world(signing: Settings, tmp_path: Path) -> Iterator[World]:
    with Catcher(folder=tmp_path / "mail") as server:
        made = World(Services(signing.replace(smtp_url=server.url)), server, tmp_path)
        yield made
        made.sender.close()
        made.services.close()


def test_mail_arrives_signed(world: World) -> None:
    name = world.launch(40)
    world.deliver()
    world.assert_all_once(name, 40)
    signer = world.services.dkim
    assert signer is not None
    box = Mailbox(world.folder / "mail")
    deadline = time.monotonic() + 10
    while len(mails := [box.raw(each) for each in box.entries()]) < 40:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert all(verified(each, signer) for each in mails)
    assert not any(verified(each.replace(b"\r\n\r\n", b"\r\n\r\nx", 1), signer) for each in mails)
    shown = (
        CliRunner().invoke(cli.app, ["dkim", "record"], env=world.services.settings.to_env()).stdout
    )
    assert shown.startswith("s2026._domainkey.notices.example.test. IN TXT ( ")
    assert signer.record in shown


def test_what_is_only_checked_is_not_signed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def sign(_: DkimSigner, mail: bytes, _now: float) -> bytes:
        asked.append(mail)
        return mail

    monkeypatch.setattr(DkimSigner, "sign", sign)
    path = world.folder / "list.csv"
    write_list(path, 20)
    found = proof.check(world.services, world.definition(), audience=path)
    assert (found.messages, found.unrenderable_total) == (20, 0)
    assert asked == []


def test_a_sender_of_another_domain_is_refused_before_anything_leaves(world: World) -> None:
    found = load_definition(ROOT / "campaigns" / "debt-notice.toml", name="elsewhere")
    elsewhere = replace(found, sender={"address": "thue@other.example.test"})
    path = world.folder / "list.csv"
    path.write_text("Mã số thuế,Tên\n", encoding="utf-8")
    with pytest.raises(
        CampaignError,
        match=r"signed for notices\.example\.test, "
        r"which .* thue@other\.example\.test does not belong",
    ):
        launch(world.services, elsewhere, audience=path)


def test_a_key_keeps_its_name(signing: Settings) -> None:
    before = (signing.dkim_key_file or Path()).read_bytes()
    again = CliRunner().invoke(cli.app, ["dkim", "create", "s2026"], env=signing.to_env())
    assert isinstance(again.exception, SettingsError)
    assert "Choose another selector" in str(again.exception)
    assert (signing.dkim_key_file or Path()).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"NOTIFIER_DKIM_SELECTOR": ""}, "NOTIFIER_DKIM_SELECTOR is not set"),
        ({"NOTIFIER_DKIM_KEY_FILE": "/nowhere/key.pem"}, "NOTIFIER_DKIM_KEY_FILE cannot be read"),
        ({"NOTIFIER_DKIM_DOMAIN": "other.example.test"}, "Mail is signed for other.example.test"),
    ],
)
def test_the_doctor_says_what_is_wrong(
    signing: Settings, change: dict[str, str], words: str
) -> None:
    done = CliRunner().invoke(cli.app, ["doctor"], env={**signing.to_env(), **change})
    assert words in done.stdout
    well = CliRunner().invoke(cli.app, ["doctor"], env=signing.to_env()).stdout
    assert re.search(r"^dkim +ok$", well, re.MULTILINE)
