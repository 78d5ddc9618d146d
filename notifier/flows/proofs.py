"""Before a campaign goes out: check every mail unsent, look at one, send one to oneself."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.domain import addresses, calendar, campaigns
from notifier.domain import suppressions as suppression
from notifier.domain.campaign_files import Definition
from notifier.errors import CampaignError, NotFoundError, RenderError
from notifier.flows import transactional as notice
from notifier.flows.launch import Plan, make_plan
from notifier.flows.lists import Audience, ProgressCallback, load_list
from notifier.rendering.blueprint import Preview
from notifier.sending.jobs import Job, make_job
from notifier.sending.ledger import Row
from notifier.services import Services

# Used for the estimate as long as no campaign of this installation has finished: what one modest
# machine does.
_ASSUMED_PER_SECOND = 2_000.0
_SHOWN_FAILURES = 20


@dataclass(slots=True)
class Check:
    """What a campaign would do.

    `largest_bytes` is the size of its largest mail; `seconds` the estimated time of sending alone.
    """

    audience: Audience
    messages: int = 0
    suppressed: dict[str, int] = field(default_factory=dict)
    unrenderable: list[tuple[int, str]] = field(default_factory=list)
    unrenderable_total: int = 0
    largest_bytes: int = 0
    largest_row: int = 0
    bytes_total: int = 0
    seconds: float = 0.0
    opens_at: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `check --json` prints."""
        listed = self.audience
        return {
            "rows_read": listed.rows_read,
            "accepted": listed.accepted,
            "rejected": listed.rejected,
            "merged": listed.merged,
            "unused_columns": listed.unused_columns,
            "messages": self.messages,
            "to_send": self.messages - sum(self.suppressed.values()) - self.unrenderable_total,
            "suppressed": self.suppressed,
            "unrenderable": self.unrenderable_total,
            "largest_mail_bytes": self.largest_bytes,
            "largest_mail_row": self.largest_row,
            "control_totals": listed.totals,
            "estimated_seconds": round(self.seconds, 1),
            "window_opens_at": self.opens_at,
        }


def check(
    services: Services,
    definition: Definition,
    *,
    audience: Path | None = None,
    progress: ProgressCallback | None = None,
    rendered: Callable[[int, int], None] | None = None,
) -> Check:
    """Load the list and render every mail, sending none.

    `rendered(done, total)` hears the progress of rendering.

    Raise CampaignError or TableError when the campaign cannot be launched at all.
    """
    plan = make_plan(services, definition, audience)
    listed = load_list(services, plan.list_file(), plan.template, progress=progress)
    result = Check(listed)
    now = services.clock()
    with services.session() as session:
        job = _job(session, services, plan)
        reasons = suppression.active_reasons(session, plan.topic.code)
        for row_no, row in _rows(session, listed.id):
            result.messages += 1
            if reason := reasons.get(row.address_id):
                result.suppressed[reason] = result.suppressed.get(reason, 0) + 1
            else:
                _try(result, job, row_no, row, now.timestamp())
            if rendered and result.messages % 500 == 0:
                rendered(result.messages, listed.accepted)
        result.seconds = _estimate(session, services, plan, result)
        if plan.definition.window:
            opens = plan.definition.window.next_open(now, calendar.load(session.connection()))
            result.opens_at = opens.isoformat() if opens > now else None
    return result


def _try(result: Check, job: Job, row_no: int, row: Row, now: float) -> None:
    try:
        content = job.render(row, now).content
    except RenderError as error:
        result.unrenderable_total += 1
        if len(result.unrenderable) < _SHOWN_FAILURES:
            result.unrenderable.append((row_no, error.message))
        return
    size = len(content)
    result.bytes_total += size
    if size > result.largest_bytes:
        result.largest_bytes, result.largest_row = size, row_no


def _job(session: Session, services: Services, plan: Plan) -> Job:
    """Return the job that a launch of `plan` would freeze."""
    return make_job(
        0,
        plan.terms_from(services.clock()),
        plan.template,
        calendar.load(session.connection()),
        services.settings.mail_domain,
        services.signer,
    )


def _rows(
    session: Session, audience_id: int, *, only_row: int | None = None, tax_code: str | None = None
) -> Iterator[tuple[int, Row]]:
    """Yield the list's row numbers and what the sender would load, with new message ids.

    Never holds the list in memory.
    """
    rows = session.execute(
        text("""SELECT r.row_no, uuidv7(), a.id, a.email, r.name, r.tax_code, r.language,
                       r.data::text
                  FROM recipient r
                 CROSS JOIN LATERAL unnest(r.address_ids) AS x (address_id)
                  JOIN address a ON a.id = x.address_id
                 WHERE r.audience_id = :audience_id
                   AND (cast(:row AS int) IS NULL OR r.row_no = :row)
                   AND (cast(:tax_code AS text) IS NULL OR r.tax_code = :tax_code)
                 ORDER BY r.row_no"""),
        {"audience_id": audience_id, "row": only_row, "tax_code": tax_code},
        execution_options={"yield_per": 1_000},
    )
    for position, (row_no, message_id, address_id, email, name, code, language, data) in enumerate(
        rows
    ):
        yield (
            row_no,
            Row(position, message_id, address_id, email, name, code, language, data, 0, 0, None),
        )


def _estimate(session: Session, services: Services, plan: Plan, result: Check) -> float:
    measured = campaigns.pace_of_last(session)
    rate = measured or _ASSUMED_PER_SECOND
    for per_minute in (plan.definition.pace_per_minute, services.routes.default.per_minute):
        if per_minute:
            rate = min(rate, per_minute / 60)
    return (result.messages - sum(result.suppressed.values())) / rate


def preview(
    services: Services,
    definition: Definition,
    *,
    audience: Path | None = None,
    row: int | None = None,
    tax_code: str | None = None,
) -> Preview:
    """Return the mail of one recipient.

    That is the one of the given row or tax code, else the list's first, else the template's
    example.
    """
    if audience is None and definition.audience is None:
        return example(services, definition)
    plan = make_plan(services, definition, audience)
    listed = load_list(services, plan.list_file(), plan.template)
    with services.session() as session:
        job = _job(session, services, plan)
        for _, found in _rows(session, listed.id, only_row=row, tax_code=tax_code):
            return job.blueprint(found.language).preview(
                job.letter(found, services.clock().timestamp())
            )
    wanted = (
        f"row {row}" if row is not None else f"the tax code {tax_code}" if tax_code else "any row"
    )
    raise NotFoundError(
        f"The list has no accepted recipient for {wanted}.",
        fix="See the rejected rows with: notifier campaign check.",
    )


def example(services: Services, definition: Definition, *, language: str | None = None) -> Preview:
    """Return the mail made of the template's own example and the campaign's data."""
    plan = make_plan(services, definition)
    with services.session() as session:
        job = _job(session, services, plan)
    row = _example_row(plan, language)
    return job.blueprint(row.language).preview(job.letter(row, services.clock().timestamp()))


def _example_data(plan: Plan) -> dict[str, Any]:
    standard = {"name", "tax_code", "email", "language"}
    values = {key: value for key, value in plan.template.example.items() if key not in standard}
    return values | {key: value for key, value in plan.data.items() if value is not None}


def _example_row(plan: Plan, language: str | None) -> Row:
    values = plan.template.example
    data = orjson.dumps(_example_data(plan)).decode()
    chosen = language or values.get("language") or "vi"
    return Row(
        0,
        uuid.uuid4(),
        0,
        values["email"],
        values["name"],
        values["tax_code"],
        chosen,
        data,
        0,
        0,
        None,
    )


def send_test(
    services: Services, definition: Definition, *, to: str, language: str | None = None
) -> uuid.UUID:
    """Send the mail made of the template's example to `to`, through the same engine as any other.

    Return the message's id.
    """
    plan = make_plan(services, definition)
    row = _example_row(plan, language)
    if language and language not in plan.template.languages:
        raise CampaignError(
            f"The template {plan.template.name} has no language {language}.", fix="Choose vi or en."
        )
    with services.session() as session:
        address_id = addresses.id_of(session, to)
        terms = notice.terms_of(services, plan.template, sender=plan.terms.sender, data=plan.data)
        stream = notice.campaign_for(session, services, plan.template, terms)
        letter = notice.Notice(
            stream,
            address_id,
            row.name,
            row.language,
            _example_data(plan),
            services.clock(),
            row.tax_code,
        )
        (message_id,) = notice.queue_notices(session, [letter])
    services.queues.enqueue_gather(notice.LANE)
    return message_id
