"""A program of its own that reads templates and renders their examples.

`catalogue.load_all` starts it.

A template is untrusted, and what reads it is written in C and Rust: elements some thousand deep
once ended the process. So this process has limits of its own for every template, and may die
without harm.

In: the folder of all templates, bytes of memory, seconds for a template, then names. Out, a JSON
line each: {"ready": true}, then per name {"template": …} or {"error": sentence, "fix": sentence}.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from notifier.errors import NotifierError, TemplateError
from notifier.rendering.blueprint import Letter, Sender, compile_blueprint
from notifier.rendering.frozen import Template, TopicInfo, to_json
from notifier.rendering.loading import load_template

_OFFICE = Sender(
    name_vi="Thuế thành phố",
    name_en="City Tax Office",
    address="office@example.test",
    reply_to="help@example.test",
    phone="024 0000 0000",
    postal_address_vi="Số 1 phố Mẫu",
    postal_address_en="1 Mau Street",
    website="https://office.example.test",
    public_url="https://notices.example.test",
)


def _limit(memory: int) -> None:
    """Bound the address space of this process; where the system has no such limits, do without."""
    try:
        import resource  # noqa: PLC0415 - not on every system

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        return


def _allow(seconds: int) -> None:
    """Let this process compute for as long from now."""
    try:
        import resource  # noqa: PLC0415 - likewise

        used = resource.getrusage(resource.RUSAGE_SELF)
        until = int(used.ru_utime + used.ru_stime) + 1 + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    except (ImportError, ValueError, OSError):
        return


def try_out(template: Template) -> None:
    """Render the example in each language; raise RenderError or TemplateError when that fails."""
    texts = dict.fromkeys(("vi", "en"), "x")
    for language in template.languages:
        blueprint = compile_blueprint(
            template,
            language=language,
            sender=_OFFICE,
            topic=TopicInfo(template.topic, texts, False, texts, texts),
            bulk=True,
            feedback_id="x",
            mail_domain="example.test",
        )
        example = template.example
        blueprint.fill(
            Letter(
                message_id=UUID(int=1),
                to_address="an@example.test",
                to_name=example["name"],
                tax_code=example["tax_code"],
                data=example,
                unsubscribe_token="x",  # noqa: S106 - an invented one
                date=datetime(2026, 1, 1, tzinfo=UTC),
            )
        )


def _answer(root: Path, name: str) -> dict[str, Any]:
    try:
        template = load_template(root, name)
        try_out(template)
        return {"template": to_json(template)}
    except NotifierError as error:
        return {"error": error.message, "fix": error.fix}
    except MemoryError:
        too_much = TemplateError(f"The template '{name}' takes too much memory.")
        return {"error": too_much.message, "fix": "Simplify it."}


def _write(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main(root: str, memory: str, seconds: str, *names: str) -> None:
    """Answer for each name."""
    _limit(int(memory))
    _write({"ready": True})
    for name in names:
        _allow(int(seconds))
        _write(_answer(Path(root), name))


if __name__ == "__main__":
    main(*sys.argv[1:])
