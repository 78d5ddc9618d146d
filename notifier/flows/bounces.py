"""The story of mail that comes back: it is noted beside its message, the address is stopped if it must be, and the sender hears of it."""

from __future__ import annotations

from sqlalchemy import text

from notifier.domain import addresses, webhooks
from notifier.domain import suppressions as suppression
from notifier.inbound import reports as bounces
from notifier.inbound.reports import Kind, Report
from notifier.services import Services

_HOOKS = {Kind.BOUNCED: webhooks.BOUNCED, Kind.COMPLAINED: webhooks.COMPLAINED}


def take(services: Services, raw: bytes, recipient: str) -> Report | None:
    """Take in a mail that came to `recipient`; return what it reports, None when it is no proven report. Twice is the same as once.

    A bounce of a dead address stops every topic; a complaint stops every topic that one may stop.
    """
    report = bounces.read(raw, recipient, services.signer)
    if report is None:
        return None
    now = services.clock()
    with services.session() as session:
        row = None
        if report.message_id is not None:
            # A complaint quotes its message without proof, so the proven address must be the message's own.
            row = session.execute(
                text("""SELECT m.id, m.address_id, m.key_id, c.sandbox FROM message m JOIN campaign c ON c.id = m.campaign_id
                         WHERE m.id = :id AND (cast(:address_id AS bigint) IS NULL OR m.address_id = :address_id)"""),
                {"id": report.message_id, "address_id": report.address_id},
            ).first()
        found = row.address_id if row is not None else report.address_id
        if found is None:
            return None
        address_id = int(found)
        if addresses.lock(session, [address_id]) != {address_id}:
            return None
        if row is None or not row.sandbox:
            if report.dead:
                suppression.suppress(
                    session,
                    address_id,
                    suppression.EVERY_TOPIC,
                    reason="hard_bounce",
                    source="bounce",
                    now=now,
                )
            if report.kind is Kind.COMPLAINED:
                optional = [
                    (address_id, topic.code)
                    for topic in services.topics.values()
                    if not topic.statutory
                ]
                suppression.suppress_many(
                    session, optional, reason="complaint", source="report", now=now
                )
        if row is not None:
            new = session.execute(
                text("""INSERT INTO message_event (message_id, at, kind, detail)
                        SELECT :id, cast(:at AS timestamptz), cast(:kind AS text), :detail
                         WHERE NOT EXISTS (SELECT FROM message_event e WHERE e.message_id = :id AND e.kind = :kind) RETURNING id"""),
                {"id": row.id, "at": now, "kind": report.kind.value, "detail": report.detail},
            )
            if new.first() is not None and row.key_id is not None:
                data = {"message_id": str(row.id), "status": report.status, "detail": report.detail}
                webhooks.record(
                    session.connection(),
                    key_id=row.key_id,
                    message_id=row.id,
                    kind=_HOOKS[report.kind],
                    at=now,
                    data=data,
                )
    return report
