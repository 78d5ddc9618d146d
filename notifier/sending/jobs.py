"""What all messages of one campaign have in common.

Compiled once in each worker process and kept while it is busy with them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from notifier.channel import Outgoing
from notifier.db import born_at
from notifier.domain.calendar import Calendar
from notifier.domain.campaigns import Terms
from notifier.domain.links import LinkSigner
from notifier.rendering import catalogue
from notifier.rendering.blueprint import Blueprint, Letter, compile_blueprint
from notifier.rendering.dkim import DkimSigner
from notifier.sending.ledger import Ledger, Row, decode_data
from notifier.states import InDoubtPolicy, Lane

NOTICE_LIFETIME = 3 * 86_400.0


@dataclass(slots=True)
class Job:
    """A campaign as the sender needs it. Times are epoch seconds.

    Frozen at launch, so it may be kept.
    """

    campaign_id: int
    terms: Terms
    template: catalogue.Template
    calendar: Calendar
    not_after: float | None
    mail_domain: str
    signer: LinkSigner
    dkim: DkimSigner | None = None
    _date: tuple[int, datetime] = (0, datetime.fromtimestamp(0, UTC))
    _blueprints: dict[str, Blueprint] = field(default_factory=dict)

    @property
    def hold(self) -> bool:
        """Whether a message whose fate is unknown waits for a person."""
        return self.terms.in_doubt is InDoubtPolicy.HOLD

    def deadline(self, row: Row) -> float:
        """Return until when the message may be sent.

        That is its own end, the campaign's, or three days after a notice was made.
        """
        if row.expires_at is not None:
            return row.expires_at
        return (
            self.not_after
            if self.not_after is not None
            else born_at(row.id).timestamp() + NOTICE_LIFETIME
        )

    def next_open(self, now: float) -> float | None:
        """Return when the sending window opens next, or None when it is open."""
        if self.terms.window is None:
            return None
        moment = datetime.fromtimestamp(now, UTC)
        opens = self.terms.window.next_open(moment, self.calendar)
        return None if opens <= moment else opens.timestamp()

    def blueprint(self, language: str) -> Blueprint:
        """Return the compiled mail in `language`, or in the first one of a template without it."""
        found = self._blueprints.get(language)
        if found is None:
            known = language if language in self.template.languages else self.template.languages[0]
            found = compile_blueprint(
                self.template,
                language=known,
                sender=self.terms.sender,
                topic=self.terms.topic,
                bulk=self.terms.lane is Lane.CAMPAIGN,
                feedback_id=f"{self.campaign_id}:{self.terms.topic.code}:{self.terms.lane}:notifier",
                mail_domain=self.mail_domain,
            )
            self._blueprints[language] = found
        return found

    def merged(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return a recipient's data, filled up with what the campaign gives to everybody.

        The recipient's own come first.
        """
        for name, value in self.terms.data.items():
            if data.get(name) is None:
                data[name] = value
        return data

    def letter(self, row: Row, now: float) -> Letter:
        """Return what differs between recipients, for the message `row` that is sent at `now`."""
        return Letter(
            message_id=row.id,
            to_address=row.email,
            to_name=row.name,
            tax_code=row.tax_code or "",
            data=self.merged(decode_data(row.data)),
            unsubscribe_token=self.signer.token(row.address_id, self.terms.topic.code),
            date=self._second(now),
        )

    def _second(self, now: float) -> datetime:
        """Return `now` to the second, within one second the same object: one header for all."""
        second = int(now)
        if second != self._date[0]:
            self._date = (second, datetime.fromtimestamp(second, UTC))
        return self._date[1]

    def render(self, row: Row, now: float) -> Outgoing:
        """Return what is to be sent, as of `now`; raise RenderError when it cannot be made.

        The sender is a mailbox of the message's own, by which a bounce is known again.
        """
        content = self.blueprint(row.language).fill(self.letter(row, now))
        if self.dkim is not None:
            content = self.dkim.sign(content, now)
        bounce = self.signer.bounce_tag(row.id)
        return Outgoing(row.position, f"b+{bounce}@{self.mail_domain}", row.email, content)


class Jobs:
    """The jobs that this process worked on lately, the newest few."""

    def __init__(
        self, mail_domain: str, signer: LinkSigner, dkim: DkimSigner | None = None, *, keep: int = 8
    ) -> None:
        """Keep up to `keep` jobs. Without `dkim` mail is not signed."""
        self._mail_domain = mail_domain
        self._signer = signer
        self._dkim = dkim
        self._keep = keep
        self._jobs: OrderedDict[int, Job] = OrderedDict()

    async def get(self, ledger: Ledger, campaign_id: int) -> Job:
        """Return the job of a campaign, from the database when it is not at hand."""
        job = self._jobs.get(campaign_id)
        if job is None:
            terms, content, days = await ledger.campaign(campaign_id)
            job = make_job(
                campaign_id,
                terms,
                catalogue.from_json(content),
                Calendar(days),
                self._mail_domain,
                self._signer,
                self._dkim,
            )
            self._jobs[campaign_id] = job
            if len(self._jobs) > self._keep:
                self._jobs.popitem(last=False)
        self._jobs.move_to_end(campaign_id)
        return job


def make_job(
    campaign_id: int,
    terms: Terms,
    template: catalogue.Template,
    calendar: Calendar,
    mail_domain: str,
    signer: LinkSigner,
    dkim: DkimSigner | None = None,
) -> Job:
    """Build a job from a campaign's terms. What is only shown or counted needs no `dkim`."""
    return Job(
        campaign_id=campaign_id,
        terms=terms,
        template=template,
        calendar=calendar,
        not_after=terms.not_after.timestamp() if terms.not_after else None,
        mail_domain=mail_domain,
        signer=signer,
        dkim=dkim,
    )
