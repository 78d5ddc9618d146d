"""The one file of verbs for `template_version`: what was sent can never change."""

from __future__ import annotations

from datetime import datetime

import orjson
from sqlalchemy import text
from sqlalchemy.orm import Session

from notifier.rendering.catalogue import Template, to_json


def freeze(session: Session, template: Template, now: datetime) -> str:
    """Keep the template's texts under the hash of their content and return that hash. Freezing the same content again changes nothing."""
    session.execute(
        text("""INSERT INTO template_version (version, name, topic, content, created_at)
                VALUES (:version, :name, :topic, cast(:content AS json), :now) ON CONFLICT (version) DO NOTHING"""),
        {
            "version": template.version,
            "name": template.name,
            "topic": template.topic,
            "content": orjson.dumps(to_json(template)).decode(),
            "now": now,
        },
    )
    return template.version
