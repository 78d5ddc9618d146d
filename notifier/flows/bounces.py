"""The story of mail that comes back: noted beside its message, and followed by what it proves.

The address is stopped if it must be, and the system that asked for the message is notified. Whoever
gets our mail sees its return path and could write a report by hand. So a report of a dead address
stops optional topics at once, and mail that the law demands only when a report of another message
comes on a later day. A refusal that our own connection heard needs no second one: see the settle.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from notifier.db import born_at
from notifier.domain import addresses, message_lookups, messages, webhooks
from notifier.domain import suppressions as suppression
from notifier.domain.calendar import HANOI
from notifier.domain.suppressions import EVERY_TOPIC, Reason
from notifier.inbound import reports
from notifier.inbound.reports import Report
from notifier.services import Services
from notifier.states import MessageState

MAX_AGE = timedelta(days=30)
"""A bounce of a message older than that is noted and stops nothing: servers give up within days."""


def take(services: Services, raw: bytes, recipient: str) -> Report | None:
    """Take in a mail that came to `recipient`; return what it reports.

    None when it is no proven report. Twice is the same as once.
    """
    report = reports.read(raw, recipient, services.signer)
    if report is None:
        return None
    now = services.clock()
    with services.session() as session:
        message = None
        if report.message_id is not None:
            # A complaint quotes its message without proof, so the proven address must be the
            # message's own.
            message = message_lookups.find_reported(
                session.connection(), report.message_id, address_id=report.address_id
            )
        address_id = report.address_id if message is None else message.address_id
        if address_id is None or addresses.lock(session, [address_id]) != {address_id}:
            return None
        new = message is not None and messages.record_report(
            session.connection(), message.id, report.state, at=now, detail=report.detail
        )
        if message is None or not message.sandbox:
            _stop(session, services, report, address_id, now=now, new=new)
        if message is not None and new:
            webhooks.record(
                session.connection(),
                key_id=message.key_id,
                message_id=message.id,
                kind=webhooks.kind_of(report.state),
                at=now,
                data={
                    "message_id": str(message.id),
                    "status": report.status,
                    "detail": report.detail,
                },
            )
    return report


def _stop(
    session: Session,
    services: Services,
    report: Report,
    address_id: int,
    *,
    now: datetime,
    new: bool,
) -> None:
    """Stop what a report proves must not be sent; a bounce that was known before stops nothing."""
    optional = [
        (address_id, topic.code) for topic in services.topics.values() if not topic.statutory
    ]
    if report.state is MessageState.COMPLAINED:
        suppression.suppress_many(
            session, optional, reason=Reason.COMPLAINT, source="report", now=now
        )
    elif report.dead and new and report.message_id is not None:
        if now - born_at(report.message_id) > MAX_AGE:
            return
        if _is_confirmed(session, address_id, now):
            optional = [(address_id, EVERY_TOPIC)]
        suppression.suppress_many(
            session, optional, reason=Reason.HARD_BOUNCE, source="bounce", now=now
        )


def _is_confirmed(session: Session, address_id: int, now: datetime) -> bool:
    """Say whether the address was reported dead on an earlier day (of Hanoi), and still counts so.

    The stops of the first report say so: whoever lifts them, because the address works again,
    takes that report back, too. Each message is reported once, so it was of another message.
    """
    since = suppression.stopped_since(session, address_id, Reason.HARD_BOUNCE)
    return since is not None and since.astimezone(HANOI).date() < now.astimezone(HANOI).date()
