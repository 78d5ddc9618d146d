"""The story of a choice: a link in a mail, the topics one may stop, one confirmation of every stop.

A choice works at once: it stands in `suppression` before the answer leaves, and the sender looks
there when it loads a batch and again at every settle. A statutory topic cannot be stopped; one
click on its link stops all that can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.domain import addresses, taxpayers, webhooks
from notifier.domain import suppressions as suppression
from notifier.domain.calendar import HANOI
from notifier.domain.suppressions import Reason
from notifier.domain.taxpayers import Taxpayer
from notifier.domain.topics import Topic
from notifier.errors import LinkError
from notifier.flows import transactional as notice
from notifier.group_commit import GroupWriter
from notifier.services import Services

CONFIRMATION = "unsubscribe-confirmation"
_INTERNAL = "service"
# A mail provider asks again after an error; it would not wait for a lock that somebody holds.
_PATIENCE = text("SET LOCAL lock_timeout = '3s'")
_SOMEBODY = {"vi": "Quý người nộp thuế", "en": "Dear taxpayer"}


@dataclass(frozen=True, slots=True)
class Choices:
    """What the owner of a link may choose: the link's own topic, and every topic.

    `stopped` are the codes of topics that are not sent, each with all its reasons, the strongest
    first.
    """

    topic: Topic
    topics: tuple[Topic, ...]
    stopped: Mapping[str, tuple[Reason, ...]]

    @property
    def optional(self) -> tuple[Topic, ...]:
        """The topics one may stop."""
        return tuple(topic for topic in self.topics if not topic.statutory)


@dataclass(frozen=True, slots=True)
class Result:
    """What was changed: topics that stop now, and topics that are sent again.

    Both are empty when all was so before. `kept`, by their reasons, are topics that were asked for
    and stay stopped: the owner of a link can take back nothing but an opt-out.
    """

    choices: Choices
    stopped: tuple[Topic, ...] = ()
    resumed: tuple[Topic, ...] = ()
    kept: Mapping[tuple[Reason, ...], list[Topic]] = field(default_factory=dict)


def _read(services: Services, token: str) -> tuple[int, Topic]:
    """Return the address's number and the topic of a link; raise LinkError.

    A topic that is no more is one, too.
    """
    address_id, code = services.signer.read(token)
    topic = services.topics.get(code)
    if topic is None:
        raise LinkError("The link is damaged.")
    return address_id, topic


def _choices(session: Session, services: Services, address_id: int, topic: Topic) -> Choices:
    found = suppression.reasons(session, address_id)
    every = found.get(suppression.EVERY_TOPIC, ())
    topics = tuple(each for each in services.topics.values() if each.code != _INTERNAL)
    stopped = {}
    for each in topics:
        own = {*found.get(each.code, ()), *every}
        if own:
            stopped[each.code] = tuple(reason for reason in Reason if reason in own)
    return Choices(topic=topic, topics=topics, stopped=stopped)


def choices(services: Services, token: str) -> Choices:
    """Return what may be chosen; changes nothing. Raise LinkError."""
    address_id, topic = _read(services, token)
    with services.session() as session:
        return _choices(session, services, address_id, topic)


def targets(services: Services, topic: Topic) -> list[Topic]:
    """Return what one click on a link of `topic` stops.

    That is the topic, or every optional one when the law forbids to stop it.
    """
    return [topic] if not topic.statutory else _optional(services)


def _optional(services: Services) -> list[Topic]:
    return [each for each in services.topics.values() if not each.statutory]


def stop(services: Services, token: str) -> Result:
    """Stop what the link stops. Doing it again changes nothing. Raise LinkError."""
    address_id, topic = _read(services, token)
    return _change(
        services, address_id, topic, stop_these=targets(services, topic), resume_these=[]
    )


def save(services: Services, token: str, wanted: set[str]) -> Result:
    """Send only the optional topics in `wanted` from now on. Raise LinkError."""
    address_id, topic = _read(services, token)
    optional = _optional(services)
    return _change(
        services,
        address_id,
        topic,
        stop_these=[each for each in optional if each.code not in wanted],
        resume_these=[each for each in optional if each.code in wanted],
    )


def _change(
    services: Services,
    address_id: int,
    topic: Topic,
    *,
    stop_these: list[Topic],
    resume_these: list[Topic],
) -> Result:
    campaign_id = notice.campaign_of(services, CONFIRMATION)
    with services.session() as session:
        session.execute(_PATIENCE)
        if addresses.lock(session, [address_id]) != {address_id}:
            raise LinkError("The link is damaged.")
        now = services.clock()
        lifted = [
            each
            for each in resume_these
            if suppression.lift(
                session, address_id, each.code, by="link", now=now, reason=Reason.UNSUBSCRIBED
            )
        ]
        new = _stop_many(
            session, services, campaign_id, {address_id: {each.code for each in stop_these}}
        )
        stopped = tuple(each for each in stop_these if each.code in new.get(address_id, ()))
        found = _choices(session, services, address_id, topic)
    if stopped:
        services.queues.enqueue_gather_soon(notice.LANE)
    # What is lifted may be stopped all the same, for another reason: the address bounced, say.
    resumed = tuple(each for each in lifted if each.code not in found.stopped)
    kept: dict[tuple[Reason, ...], list[Topic]] = {}
    for each in resume_these:
        if each.code in found.stopped:
            kept.setdefault(found.stopped[each.code], []).append(each)
    return Result(choices=found, stopped=stopped, resumed=resumed, kept=kept)


def _stop_many(
    session: Session, services: Services, campaign_id: int, wanted: dict[int, set[str]]
) -> dict[int, set[str]]:
    """Stop topics for addresses whose rows are locked; return what is new.

    Each new stop is confirmed in this same transaction.
    """
    pairs = [(address_id, code) for address_id, codes in wanted.items() for code in codes]
    new: dict[int, set[str]] = {}
    now = services.clock()
    stopped = suppression.suppress_many(
        session, pairs, reason=Reason.UNSUBSCRIBED, source="link", now=now
    )
    for address_id, code in stopped:
        new.setdefault(address_id, set()).add(code)
    if new:
        owners = taxpayers.owners(session, new)
        before = suppression.active_many(session, list(new))
        notices = [
            _confirmation(services, campaign_id, each, codes, before[each], owners.get(each, []))
            for each, codes in new.items()
        ]
        notice.queue_notices(session, notices)
        webhooks.record_unsubscribed(session.connection(), new, now)
    return new


def _confirmation(
    services: Services,
    campaign_id: int,
    address_id: int,
    codes: set[str],
    stopped: Mapping[str, str],
    owners: list[Taxpayer],
) -> notice.Notice:
    language = owners[0].language if owners else "vi"
    # Several taxpayers may share an accountant's address; the mail must not give one of them
    # another's name.
    name, tax_code = (
        (owners[0].name, owners[0].tax_code) if len(owners) == 1 else (_SOMEBODY[language], None)
    )
    now = services.clock()
    moment = now.astimezone(HANOI).isoformat(timespec="seconds")
    topics = [each for each in services.topics.values() if each.code != _INTERNAL]
    data = {
        "stopped_topic": ", ".join(
            each.info.name[language] for each in topics if each.code in codes
        ),
        "received_at": moment,
        "effective_at": moment,
        "lines": [
            {"topic_name": each.info.name[language]}
            for each in topics
            if each.statutory or each.code not in stopped
        ],
    }
    return notice.Notice(
        campaign_id=campaign_id,
        address_id=address_id,
        name=name,
        language=language,
        data=data,
        due_at=now,
        tax_code=tax_code,
    )


@dataclass(frozen=True, slots=True)
class _Click:
    address_id: int
    codes: frozenset[str]


class OneClicks:
    """Stops topics for many one-click requests at once.

    Mail providers send them in bursts after a campaign.
    """

    def __init__(self, services: Services, *, most: int = 500) -> None:
        """Write at most `most` requests in one transaction."""
        self._services = services
        self._writer: GroupWriter[_Click, None] = GroupWriter(
            self._write, name="one-clicks", most=most
        )

    def stop(self, token: str) -> Future[None]:
        """Ask for what `stop` does; raise LinkError.

        The future ends after the commit, or with the database's error.
        """
        address_id, topic = _read(self._services, token)
        return self._writer.submit(
            _Click(
                address_id=address_id,
                codes=frozenset(each.code for each in targets(self._services, topic)),
            )
        )

    def _write(self, clicks: Sequence[_Click]) -> list[None]:
        campaign_id = notice.campaign_of(self._services, CONFIRMATION)
        wanted: dict[int, set[str]] = {}
        for click in clicks:
            wanted.setdefault(click.address_id, set()).update(click.codes)
        with self._services.session() as session:
            session.execute(_PATIENCE)
            known = addresses.lock(session, list(wanted))
            new = _stop_many(
                session,
                self._services,
                campaign_id,
                {key: codes for key, codes in wanted.items() if key in known},
            )
        if new:
            self._services.queues.enqueue_gather_soon(notice.LANE)
        return [None] * len(clicks)
