"""From the link in a mail to a choice that holds: one click (RFC 8058), topics, confirmation."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import text

from notifier.domain import addresses
from notifier.domain import suppressions as suppression
from notifier.services import Services
from notifier.settings import Settings
from notifier.web.app import create_app

ONE_CLICK = "List-Unsubscribe=One-Click"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(
        create_app(services), raise_server_exceptions=False, follow_redirects=False
    ) as found:
        yield found


@pytest.fixture
def address(services: Services) -> int:
    with services.session() as session:
        number = addresses.id_of(session, "ketoan@example.test")
        session.execute(
            text("""WITH t AS (
                      INSERT INTO taxpayer (tax_code, name, language)
                      VALUES ('0100109106', 'Công ty Ví Dụ', 'vi') RETURNING id)
                    INSERT INTO taxpayer_address SELECT t.id, :number, now(), now() FROM t"""),
            {"number": number},
        )
    return number


def stopped(services: Services, address: int) -> dict[str, str]:
    with services.session() as session:
        return suppression.active(session, address)


def confirmations(services: Services) -> int:
    with services.session() as session:
        return int(session.scalar(text("SELECT count(*) FROM message")) or 0)


def post(client: TestClient, token: str, body: str = ONE_CLICK) -> Response:
    return client.post(f"/u/{token}", content=body, headers=FORM)


def test_one_click_stops_the_topic_and_is_confirmed_once(
    client: TestClient, services: Services, address: int
) -> None:
    token = services.signer.token(address, "tax-policy")
    first, second = post(client, token), post(client, token)
    assert (first.status_code, second.status_code) == (200, 200)
    assert stopped(services, address) == {"tax-policy": "unsubscribed"}
    assert confirmations(services) == 1
    assert "set-cookie" not in first.headers
    assert first.headers["cache-control"] == "no-store"
    assert first.headers["referrer-policy"] == "no-referrer"
    assert "noindex" in first.headers["x-robots-tag"]


def test_one_click_may_be_multipart(client: TestClient, services: Services, address: int) -> None:
    token = services.signer.token(address, "tax-policy")
    answer = client.post(f"/u/{token}", files={"List-Unsubscribe": (None, "One-Click")})
    assert answer.status_code == 200
    assert stopped(services, address) == {"tax-policy": "unsubscribed"}


def test_a_scanner_that_opens_the_link_changes_nothing(
    client: TestClient, services: Services, address: int
) -> None:
    token = services.signer.token(address, "tax-policy")
    page = client.get(f"/u/{token}")
    assert page.status_code == client.head(f"/u/{token}").status_code == 200
    assert "Chính sách thuế mới" in page.text
    assert '<html lang="vi">' in page.text
    assert '<html lang="en">' in client.get(f"/u/{token}?lang=en").text
    assert stopped(services, address) == {}


def test_a_bad_token_gets_200_on_one_click_and_a_clear_page_otherwise(
    client: TestClient, services: Services, address: int
) -> None:
    token = services.signer.token(address, "tax-policy")
    forged = ("A" if token[0] != "A" else "B") + token[1:]
    for bad in (forged, "x", token + "x", token[:-2]):
        assert post(client, bad).status_code == 200
        assert client.get(f"/u/{bad}").status_code == 404
    assert stopped(services, address) == {}
    assert confirmations(services) == 0


def test_a_token_of_another_key_is_worth_nothing(
    client: TestClient, services: Services, settings: Settings, address: int
) -> None:
    other = Services(settings.replace(secret_key="other-" * 10))
    assert post(client, other.signer.token(address, "tax-policy")).status_code == 200
    assert stopped(services, address) == {}


def test_a_statutory_topic_goes_on_and_the_optional_ones_stop(
    client: TestClient, services: Services, address: int
) -> None:
    token = services.signer.token(address, "debt-notice")
    page = client.get(f"/u/{token}").text
    assert "Luật Quản lý thuế số 108/2025/QH15" in page
    assert post(client, token).status_code == 200
    assert stopped(services, address) == {
        "tax-policy": "unsubscribed",
        "settlement-guidance": "unsubscribed",
    }
    assert confirmations(services) == 1


def test_the_page_of_topics_stops_and_resumes(
    client: TestClient, services: Services, address: int
) -> None:
    token = services.signer.token(address, "tax-policy")
    saved = client.post(f"/u/{token}/chu-de", data={"topic": "settlement-guidance"})
    assert saved.status_code == 200
    assert "Chính sách thuế mới" in saved.text
    assert stopped(services, address) == {"tax-policy": "unsubscribed"}
    client.post(f"/u/{token}/chu-de", data={"topic": ["settlement-guidance", "tax-policy"]})
    assert stopped(services, address) == {}
    assert confirmations(services) == 1


def test_who_bounced_cannot_subscribe_again_by_link(
    client: TestClient, services: Services, address: int
) -> None:
    with services.session() as session:
        suppression.suppress(
            session, address, "*", reason="hard_bounce", source="test", now=services.clock()
        )
    token = services.signer.token(address, "tax-policy")
    client.post(f"/u/{token}/chu-de", data={"topic": ["settlement-guidance", "tax-policy"]})
    assert stopped(services, address) == {"*": "hard_bounce"}


def test_a_topic_that_stays_stopped_says_every_reason(
    client: TestClient, services: Services, address: int
) -> None:
    token = services.signer.token(address, "debt-notice")
    for topic, reason in (("*", "hard_bounce"), ("tax-policy", "manual")):
        with services.session() as session:
            suppression.suppress(
                session, address, topic, reason=reason, source="test", now=services.clock()
            )
    page = client.post(f"/u/{token}/chu-de?lang=en", data={"topic": "tax-policy"}).text
    assert (
        "because the receiving system said that this address takes no mail, "
        "and because the tax office has stopped mail to this address; to receive it again" in page
    )
    assert "is still sent" not in page, "what bounced is not sent, whatever the law demands"
    page = client.post(f"/u/{token}/chu-de", data={"topic": "tax-policy"}).text
    assert "không nhận được thư; và vì cơ quan thuế đã ngừng gửi" in page
    assert "vẫn được gửi" not in page


def test_twenty_clicks_at_once_are_one_change_and_one_confirmation(
    client: TestClient, services: Services, address: int
) -> None:
    token = services.signer.token(address, "tax-policy")
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: post(client, token).status_code, range(20)))
    assert answers == [200] * 20
    assert stopped(services, address) == {"tax-policy": "unsubscribed"}
    assert confirmations(services) == 1


def test_an_unavailable_database_is_the_only_503(
    settings: Settings, services: Services, address: int
) -> None:
    token = services.signer.token(address, "tax-policy")
    away = Services(settings.replace(database_url="postgresql://nobody@127.0.0.1:9/none"))
    with TestClient(create_app(away), raise_server_exceptions=False) as client:
        answer = post(client, token)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "60"


def test_a_huge_body_is_refused(client: TestClient, services: Services, address: int) -> None:
    assert (
        post(
            client, services.signer.token(address, "tax-policy"), ONE_CLICK + "x" * 5000
        ).status_code
        == 413
    )
    assert stopped(services, address) == {}


def test_anyone_can_check_a_notice_and_learns_no_more(
    client: TestClient, services: Services, address: int
) -> None:
    post(client, services.signer.token(address, "tax-policy"))
    with services.session() as session:
        message = session.scalar(
            text("UPDATE message SET state = 'accepted', settled_at = now() RETURNING id::text")
        )
    page = client.post("/kiem-tra", data={"code": f"<{message}@notices.example.test>"}).text
    assert "Đúng, thư này do chúng tôi gửi" in page
    assert "k•••@example.test" in page
    assert "ketoan@" not in page
    assert "Công ty Ví Dụ" not in page
    assert (
        "không tìm thấy"
        in client.post("/kiem-tra", data={"code": "01a209c6-e4aa-737e-9795-258fef616c04"}).text
    )
    statuses = [client.post("/kiem-tra", data={"code": "x"}).status_code for _ in range(30)]
    assert statuses[-1] == 429


def test_a_mail_in_doubt_is_never_called_a_fake(
    client: TestClient, services: Services, address: int
) -> None:
    post(client, services.signer.token(address, "tax-policy"))
    with services.session() as session:
        message = session.scalar(
            text(
                "UPDATE message SET state = 'in_doubt', doubts = 1, settled_at = now()"
                " RETURNING id::text"
            )
        )
    page = client.post("/kiem-tra", data={"code": message}).text
    assert "có thể do chúng tôi gửi" in page
    assert "không tìm thấy" not in page


def test_a_first_confirmation_that_fails_leaves_no_trace(
    client: TestClient, services: Services, address: int
) -> None:
    token = services.signer.token(address, "tax-policy")
    with services.session() as session:
        session.execute(text("ALTER TABLE recipient RENAME TO away"))
    assert post(client, token).status_code == 503
    with services.session() as session:
        session.execute(text("ALTER TABLE away RENAME TO recipient"))
    assert stopped(services, address) == {}
    assert post(client, token).status_code == 200
    with services.session() as session:
        orphans = session.scalar(
            text("SELECT count(*) FROM message WHERE campaign_id NOT IN (SELECT id FROM campaign)")
        )
    assert (confirmations(services), orphans) == (1, 0)


def test_no_inbox_beside_a_server_that_delivers(settings: Settings, services: Services) -> None:
    (settings.var / "mail").mkdir(exist_ok=True)
    real = Services(settings.replace(smtp_url="smtp://relay.example.test:25"))
    with TestClient(create_app(real)) as client:
        assert client.get("/inbox").status_code == 404
    with TestClient(create_app(services)) as client:
        assert client.get("/inbox").status_code == 200
        assert client.get("/inbox?p=x").headers["content-type"].startswith("text/html")


def test_health_names_the_part_that_is_unwell(client: TestClient) -> None:
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "unwell",
        "parts": {"database": "ok", "broker": "ok", "smtp": "unreachable"},
    }


def test_metrics_hold_the_age_of_the_queue(
    client: TestClient, services: Services, address: int
) -> None:
    post(client, services.signer.token(address, "tax-policy"))
    page = client.get("/metrics").text
    assert 'notifier_queue_age_seconds{lane="notice"}' in page
    assert 'notifier_queue_age_seconds{lane="campaign"} 0.0' in page


def test_an_unknown_page_is_a_page_and_no_traceback(client: TestClient) -> None:
    answer = client.get("/nothing")
    assert answer.status_code == 404
    assert "Không tìm thấy trang" in answer.text
