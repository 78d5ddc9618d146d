"""The one module of verbs for `template_version`: what was sent can never change."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from notifier.rendering.catalogue import Template, to_json
from notifier.schema import TemplateVersion


def freeze(session: Session, template: Template, now: datetime) -> str:
    """Keep the template's texts under the hash of their content and return that hash.

    Freezing the same content again changes nothing.
    """
    session.execute(
        insert(TemplateVersion)
        .values(
            version=template.version,
            name=template.name,
            topic=template.topic,
            content=to_json(template),
            created_at=now,
        )
        .on_conflict_do_nothing(index_elements=[TemplateVersion.version])
    )
    return template.version
