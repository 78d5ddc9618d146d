"""The story of a choice: a link in a mail, the topics one may stop, and one confirmation of every stop.

A choice works at once: it stands in `suppression` before the answer leaves, and the sender looks there when it loads a batch and again at
every settle. A statutory topic cannot be stopped; one click on its link stops all that can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.domain import suppression
from notifier.domain.calendar import HANOI
from notifier.domain.topics import Topic
from notifier.errors import LinkError
from notifier.flows import notice

if TYPE_CHECKING:
    from notifier.services import Services

CONFIRMATION = "unsubscribe-confirmation"
_INTERNAL = "service"
_SOMEBODY = {"vi": "Quý người nộp thuế", "en": "Dear taxpayer"}


@dataclass(frozen=True, slots=True)
class Choices:
    """What the owner of a link may choose: the link's own topic, every topic, and the codes of those that are stopped."""

    topic: Topic
    topics: tuple[Topic, ...]
    stopped: frozenset[str]

    @property
    def optional(self) -> tuple[Topic, ...]:
        """The topics one may stop."""
        return tuple(topic for topic in self.topics if not topic.statutory)


@dataclass(frozen=True, slots=True)
class Result:
    """What was changed: topics that stop now and topics that are sent again; both empty when all was so before."""

    choices: Choices
    stopped: tuple[Topic, ...] = ()
    resumed: tuple[Topic, ...] = ()


def _read(services: Services, token: str) -> tuple[int, Topic]:
    """Return the address's number and the topic of a link; raise LinkError, also for a topic that is no more."""
    address_id, code = services.signer.read(token)
    topic = services.topics.get(code)
    if topic is None:
        raise LinkError("The link is damaged.")
    return address_id, topic


def _choices(session: Session, services: Services, address_id: int, topic: Topic) -> Choices:
    stopped = suppression.active(session, address_id)
    topics = tuple(each for each in services.topics.values() if each.code != _INTERNAL)
    codes = {each.code for each in topics} if suppression.EVERY_TOPIC in stopped else set(stopped)
    return Choices(topic, topics, frozenset(codes))


def choices(services: Services, token: str) -> Choices:
    """Return what may be chosen; changes nothing. Raise LinkError."""
    address_id, topic = _read(services, token)
    with services.session() as session:
        return _choices(session, services, address_id, topic)


def stop(services: Services, token: str) -> Result:
    """Stop the link's topic, or every optional one when the law forbids to stop that. Doing it again changes nothing. Raise LinkError."""
    address_id, topic = _read(services, token)
    targets = [topic] if not topic.statutory else [each for each in services.topics.values() if not each.statutory]
    return _change(services, address_id, topic, stop_these=targets, resume_these=[])


def save(services: Services, token: str, wanted: set[str]) -> Result:
    """Send only the optional topics in `wanted` from now on. Raise LinkError."""
    address_id, topic = _read(services, token)
    optional = [each for each in services.topics.values() if not each.statutory]
    return _change(
        services,
        address_id,
        topic,
        stop_these=[each for each in optional if each.code not in wanted],
        resume_these=[each for each in optional if each.code in wanted],
    )


def _change(services: Services, address_id: int, topic: Topic, *, stop_these: list[Topic], resume_these: list[Topic]) -> Result:
    now = services.clock()
    with services.session() as session:
        if suppression.address_of(session, address_id) is None:
            raise LinkError("The link is damaged.")
        resumed = tuple(
            each for each in resume_these if suppression.lift(session, address_id, each.code, by="link", now=now, reason="unsubscribed")
        )
        stopped = tuple(
            each
            for each in stop_these
            if suppression.suppress(session, address_id, each.code, reason="unsubscribed", source="link", now=now)
        )
        found = _choices(session, services, address_id, topic)
        if stopped:
            _confirm(session, services, address_id, found, stopped)
    if stopped:
        services.queues.wake_gather_soon(notice.LANE)
    return Result(found, stopped, resumed)


def _confirm(session: Session, services: Services, address_id: int, found: Choices, stopped: tuple[Topic, ...]) -> None:
    """Queue the confirmation, in the transaction of the change itself: there is one exactly when something was stopped."""
    # Several taxpayers may share an accountant's address; the mail must not tell one of them another's name.
    owners = session.execute(
        text("""SELECT t.name, t.language, t.tax_code FROM taxpayer_address h JOIN taxpayer t ON t.id = h.taxpayer_id
                 WHERE h.address_id = :address_id LIMIT 2"""),
        {"address_id": address_id},
    ).all()
    if len(owners) == 1:
        name, language, tax_code = owners[0]
    else:
        language = owners[0].language if owners else "vi"
        name, tax_code = _SOMEBODY[language], None
    moment = services.clock().astimezone(HANOI).isoformat(timespec="seconds")
    remaining = [each for each in found.topics if each.statutory or each.code not in found.stopped]
    template = services.catalogue[CONFIRMATION]
    stream_id = services.streams.get(template.version)
    if stream_id is None:
        stream_id = services.streams[template.version] = notice.stream(session, services, template)
    notice.queue_notice(
        session,
        services,
        template=CONFIRMATION,
        address_id=address_id,
        name=name,
        language=language,
        tax_code=tax_code,
        campaign_id=stream_id,
        data={
            "stopped_topic": ", ".join(each.info.name[language] for each in stopped),
            "received_at": moment,
            "effective_at": moment,
            "lines": [{"topic_name": each.info.name[language]} for each in remaining],
        },
    )
