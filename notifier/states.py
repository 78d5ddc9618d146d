"""The lives of campaigns, batches and messages: every state, and every step between two of them.

Everything that speaks of states is derived from here: the types of the database, the API, `status`,
reports, webhooks, metrics and the glossary. A step that is not in a table of transitions is refused
and changes nothing. A new state is one new member with what is known of it; the type checker names
each place where more has to be decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self, TypeVar

from notifier.errors import TransitionError


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a state beside its name: how people read it, and what follows from it.

    `final`: nothing follows by itself. For messages: `webhook` is the kind of event by which other
    systems are notified, `figure` the number of `status` that counts it (default: its name), and
    `problem` says that it is kept in the table of what was not accepted, which reports filter.
    """

    vi: str
    en: str
    final: bool = False
    webhook: str | None = None
    figure: str = ""
    problem: bool = False


_UNKNOWN = About("", "")


class State(StrEnum):
    """A word of the database and the API, with what is known of it."""

    about: About

    def __new__(cls, value: str, about: About = _UNKNOWN) -> Self:
        """Make a member; with the value alone, Python finds the member that there is."""
        member = str.__new__(cls, value)
        member._value_, member.about = value, about
        return member

    @property
    def is_final(self) -> bool:
        """Whether nothing follows by itself."""
        return self.about.final


# --- words of campaigns --------------------------------------------------------------------------


class Lane(StrEnum):
    """Which workers deliver: notices never wait behind campaigns."""

    NOTICE = "notice"
    CAMPAIGN = "campaign"


class InDoubtPolicy(StrEnum):
    """What happens to a message whose fate a crash left unknown."""

    RESEND = "resend"
    """It is sent again with the same Message-ID."""
    HOLD = "hold"
    """It waits for a person."""


# --- campaigns -----------------------------------------------------------------------------------


class CampaignState(State):
    """Where a campaign is in its life."""

    DRAFT = "draft", About("Bản nháp", "Draft")
    """Being prepared: its file, perhaps its list; nothing is frozen or planned."""
    SCHEDULED = "scheduled", About("Hẹn giờ", "Scheduled")
    """Launched for a later moment: frozen, its messages are planned."""
    RUNNING = "running", About("Đang gửi", "Sending")
    """Messages leave, or wait for their time."""
    PAUSED = "paused", About("Tạm dừng", "Paused")
    """Nothing new starts; what is on the wire is finished."""
    CANCELLING = "cancelling", About("Đang hủy", "Cancelling")
    """Cancelled; the last batches are being given back."""
    CANCELLED = "cancelled", About("Đã hủy", "Cancelled", final=True)
    """What had not left will not leave."""
    FINISHED = "finished", About("Đã xong", "Finished", final=True)
    """Nothing is left to send, unless held messages are sent again."""


class CampaignStep(StrEnum):
    """What can be asked of a campaign, or happens to it."""

    LAUNCH = "launch"
    SCHEDULE = "schedule"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    END_CANCEL = "end-cancel"
    FINISH = "finish"
    REOPEN = "reopen"


CAMPAIGN_TRANSITIONS: Mapping[tuple[CampaignState, CampaignStep], CampaignState] = {
    (CampaignState.DRAFT, CampaignStep.LAUNCH): CampaignState.RUNNING,
    (CampaignState.DRAFT, CampaignStep.SCHEDULE): CampaignState.SCHEDULED,
    (CampaignState.SCHEDULED, CampaignStep.START): CampaignState.RUNNING,
    (CampaignState.SCHEDULED, CampaignStep.PAUSE): CampaignState.PAUSED,
    (CampaignState.SCHEDULED, CampaignStep.CANCEL): CampaignState.CANCELLING,
    (CampaignState.RUNNING, CampaignStep.PAUSE): CampaignState.PAUSED,
    (CampaignState.RUNNING, CampaignStep.CANCEL): CampaignState.CANCELLING,
    (CampaignState.RUNNING, CampaignStep.FINISH): CampaignState.FINISHED,
    (CampaignState.PAUSED, CampaignStep.RESUME): CampaignState.RUNNING,
    (CampaignState.PAUSED, CampaignStep.CANCEL): CampaignState.CANCELLING,
    (CampaignState.CANCELLING, CampaignStep.END_CANCEL): CampaignState.CANCELLED,
    # Held messages that an operator sends again.
    (CampaignState.FINISHED, CampaignStep.REOPEN): CampaignState.RUNNING,
    (CampaignState.RUNNING, CampaignStep.REOPEN): CampaignState.RUNNING,
    (CampaignState.PAUSED, CampaignStep.REOPEN): CampaignState.PAUSED,
}

# Steps that a person asks for; the others happen.
ASKABLE = (
    CampaignStep.LAUNCH,
    CampaignStep.SCHEDULE,
    CampaignStep.PAUSE,
    CampaignStep.RESUME,
    CampaignStep.CANCEL,
)


def next_campaign_state(name: str, state: CampaignState, step: CampaignStep) -> CampaignState:
    """Return the state after `step`; raise TransitionError when the table does not allow it."""
    after = CAMPAIGN_TRANSITIONS.get((state, step))
    if after is None:
        possible = [each.value for each in ASKABLE if (state, each) in CAMPAIGN_TRANSITIONS]
        raise TransitionError(
            f"Campaign {name} cannot {step.value}: {_why_not(state)}.",
            fix=f"Possible now: {', '.join(sorted(possible))}."
            if possible
            else "Nothing was changed.",
        )
    return after


def _why_not(state: CampaignState) -> str:
    match state:
        case CampaignState.DRAFT:
            return "it has not been launched"
        case CampaignState.SCHEDULED:
            return "it is scheduled and has not started"
        case CampaignState.CANCELLING:
            return "it is being cancelled"
        case CampaignState.CANCELLED:
            return "it was cancelled"
        case CampaignState.RUNNING | CampaignState.PAUSED | CampaignState.FINISHED:
            return f"it is {state.value}"


# --- batches -------------------------------------------------------------------------------------


class BatchState(State):
    """Who moves a batch on."""

    READY = "ready", About("Sẵn sàng", "Ready")
    """A worker may lease it from `due_at` on; the sweep enqueues it again when a task was lost."""
    LEASED = "leased", About("Đang gửi", "Leased")
    """One worker sends it; the sweep takes it back when the lease has run out."""
    DEAD_LETTER = "dead_letter", About("Lô để riêng", "Set aside")
    """It ended several workers in a row without getting on: an operator retries it or cancels."""
    DONE = "done", About("Xong", "Done", final=True)
    """Each of its messages has an outcome or has left it."""


class BatchStep(StrEnum):
    """What happens to a batch."""

    LEASE = "lease"
    RELEASE = "release"
    COMPLETE = "complete"
    RECOVER = "recover"
    BURY = "bury"
    RETRY = "retry"
    CANCEL = "cancel"


BATCH_TRANSITIONS: Mapping[tuple[BatchState, BatchStep], BatchState] = {
    (BatchState.READY, BatchStep.LEASE): BatchState.LEASED,
    (BatchState.LEASED, BatchStep.RELEASE): BatchState.READY,
    (BatchState.LEASED, BatchStep.COMPLETE): BatchState.DONE,
    (BatchState.LEASED, BatchStep.RECOVER): BatchState.READY,
    (BatchState.LEASED, BatchStep.BURY): BatchState.DEAD_LETTER,
    (BatchState.DEAD_LETTER, BatchStep.RETRY): BatchState.READY,
    (BatchState.READY, BatchStep.CANCEL): BatchState.DONE,
    (BatchState.DEAD_LETTER, BatchStep.CANCEL): BatchState.DONE,
}


# --- messages ------------------------------------------------------------------------------------


class MessageState(State):
    """What became of a message. They are disjoint and add up to a campaign's total, always."""

    @property
    def webhook(self) -> str | None:
        """The kind of event by which other systems are notified of it, if they are."""
        return self.about.webhook

    @property
    def figure(self) -> str:
        """The number of `status` that counts it."""
        return self.about.figure or self.value

    @property
    def is_problem(self) -> bool:
        """Whether it is kept in the table of what was not accepted."""
        return self.about.problem

    QUEUED = "queued", About("Chờ gửi", "Waiting")
    """It waits for a worker."""
    DEFERRED = (
        "deferred",
        About("Sẽ gửi lại", "To be retried", webhook="message.deferred", problem=True),
    )
    """Certainly not taken yet; it is tried again at `due_at`."""
    ACCEPTED = (
        "accepted",
        About("Máy chủ đã nhận", "Accepted", final=True, webhook="message.accepted"),
    )
    """A server took responsibility for it (RFC 5321 section 4.2.5)."""
    REFUSED = (
        "refused",
        About("Bị từ chối", "Refused", final=True, webhook="message.refused", problem=True),
    )
    """A server will never take it."""
    SKIPPED = (
        "skipped",
        About(
            "Không gửi",
            "Not sent",
            final=True,
            webhook="message.skipped",
            figure="skipped_total",
            problem=True,
        ),
    )
    """It must not be sent (suppressed) or cannot be rendered; `detail` says which."""
    EXPIRED = (
        "expired",
        About("Quá hạn", "Expired", final=True, webhook="message.expired", problem=True),
    )
    """Its end came before a server took it."""
    CANCELLED = "cancelled", About("Đã hủy", "Cancelled", final=True, webhook="message.cancelled")
    """Taken back before it left."""
    IN_DOUBT = (
        "in_doubt",
        About("Chưa rõ", "In doubt", webhook="message.in_doubt", figure="held", problem=True),
    )
    """A server may have it; it is held until a person decides."""
    GIVEN_UP = "given_up", About("Bỏ, không gửi lại", "Given up", final=True, problem=True)
    """It was in doubt, and a person decided to leave it so."""
    BOUNCED = (
        "bounced",
        About("Bị trả về", "Bounced", final=True, webhook="message.bounced", problem=True),
    )
    """Accepted, and then a proven report said that it could not be delivered."""
    COMPLAINED = (
        "complained",
        About(
            "Bị báo là thư rác",
            "Complained",
            final=True,
            webhook="message.complained",
            problem=True,
        ),
    )
    """Accepted, and then its reader complained of it."""


class MessageStep(StrEnum):
    """What happens to a message."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    DEFER = "defer"
    SKIP = "skip"
    EXPIRE = "expire"
    HOLD = "hold"
    GATHER = "gather"
    CANCEL = "cancel"
    RESEND = "resend"
    GIVE_UP = "give-up"
    BOUNCE = "bounce"
    COMPLAIN = "complain"


MESSAGE_TRANSITIONS: Mapping[tuple[MessageState, MessageStep], MessageState] = {
    (MessageState.QUEUED, MessageStep.ACCEPT): MessageState.ACCEPTED,
    (MessageState.QUEUED, MessageStep.REFUSE): MessageState.REFUSED,
    (MessageState.QUEUED, MessageStep.DEFER): MessageState.DEFERRED,
    (MessageState.QUEUED, MessageStep.SKIP): MessageState.SKIPPED,
    (MessageState.QUEUED, MessageStep.EXPIRE): MessageState.EXPIRED,
    (MessageState.QUEUED, MessageStep.HOLD): MessageState.IN_DOUBT,
    (MessageState.QUEUED, MessageStep.GATHER): MessageState.QUEUED,
    (MessageState.DEFERRED, MessageStep.GATHER): MessageState.QUEUED,
    (MessageState.QUEUED, MessageStep.CANCEL): MessageState.CANCELLED,
    (MessageState.DEFERRED, MessageStep.CANCEL): MessageState.CANCELLED,
    (MessageState.IN_DOUBT, MessageStep.RESEND): MessageState.QUEUED,
    (MessageState.IN_DOUBT, MessageStep.GIVE_UP): MessageState.GIVEN_UP,
    (MessageState.ACCEPTED, MessageStep.BOUNCE): MessageState.BOUNCED,
    (MessageState.ACCEPTED, MessageStep.COMPLAIN): MessageState.COMPLAINED,
}

WAITING = tuple(state for (state, step) in MESSAGE_TRANSITIONS if step is MessageStep.CANCEL)
"""The states from which a message may still leave by itself."""
WEBHOOK_STATES = tuple(state for state in MessageState if state.webhook is not None)
PROBLEM_STATES = tuple(state for state in MessageState if state.is_problem)
FINAL_STATES = tuple(state for state in MessageState if state.is_final)

_State = TypeVar("_State", CampaignState, BatchState, MessageState)


def sql_list(states: tuple[_State, ...]) -> str:
    """Return states as a list for SQL's IN: `'queued', 'deferred'`. They are words of ours."""
    return ", ".join(f"'{state.value}'" for state in states)
