"""Every error that a person may see, in one tree.

A message is one sentence that says what is wrong and names the row, field, file or setting; `fix`
is one more that says what to do. The command line prints both without a traceback and exits with
`exit_code`; the web turns them into a page or problem details.
"""

from __future__ import annotations


class NotifierError(Exception):
    """Root of all errors that this service raises on purpose."""

    exit_code = 1
    code = "error"

    def __init__(self, message: str, *, fix: str = "") -> None:
        """Keep the sentence for the person and what they should do next (`fix`, may be empty)."""
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        """Return the sentence, followed by what to do."""
        return f"{self.message} {self.fix}".strip()


class SettingsError(NotifierError, ValueError):
    """An environment variable or configuration file has a value that cannot be used."""

    exit_code = 2
    code = "settings"


class UnavailableError(NotifierError, ConnectionError):
    """A part that we need (database, broker, SMTP server, port) cannot be reached or used."""

    exit_code = 3
    code = "unavailable"


class TemplateError(NotifierError, ValueError):
    """A template folder is incomplete, unsafe or does not compile."""

    code = "template"


class RenderError(NotifierError, ValueError):
    """A template and the data of one recipient do not make a mail.

    A value is undefined, or the mail is too large or takes too long.
    """

    code = "render"


class TableError(NotifierError, ValueError):
    """A list of recipients cannot be read as a table at all, or lacks a column."""

    code = "table"


class CampaignError(NotifierError, ValueError):
    """A campaign file or a request about a campaign cannot be carried out."""

    code = "campaign"


class NotFoundError(CampaignError, LookupError):
    """The campaign, template, topic or message that was named does not exist."""

    code = "not-found"


class TransitionError(CampaignError):
    """The campaign's state does not allow this step; nothing was changed."""

    code = "transition"


class LinkError(NotifierError, ValueError):
    """A token of a link is damaged, forged or made with another key."""

    code = "link"
