"""All templates, and the door of this room: what others need of templates stands here.

`templates/<name>/` holds `template.toml` (what the mail is about and which fields it needs),
`example.json` (one recipient) and per language `subject.txt`, `body.txt`, `body.html`;
`templates/_base/` holds what mails share. docs/add-a-template.md is the guide.

fields says what fits a field · description reads what the author says · folder reads files ·
assembly and styles make the texts that run · loading joins these · trial does so in a process of
its own · frozen keeps what was launched.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from notifier.errors import TemplateError
from notifier.rendering.fields import (
    FIELD_TYPES,
    LANGUAGES,
    LINE_KEY,
    STANDARD_FIELDS,
    Field,
    problems_in,
)
from notifier.rendering.frozen import PARTS, Template, TopicInfo, from_json, to_json
from notifier.rendering.loading import load_template

__all__ = (
    "FIELD_TYPES",
    "LANGUAGES",
    "LINE_KEY",
    "PARTS",
    "STANDARD_FIELDS",
    "Catalogue",
    "Field",
    "Template",
    "TopicInfo",
    "faults",
    "from_json",
    "load_all",
    "load_template",
    "to_json",
)

# What one template may take of a process that tries it: bytes of address space, seconds of CPU.
MAX_MEMORY = 1024**3
MAX_SECONDS = 10
_MAX_WAIT_SECONDS = 600
# What the system says to a process that used up its seconds, where it has such limits.
_TOO_LONG = getattr(signal, "SIGXCPU", signal.SIGTERM)


class Catalogue(Mapping[str, Template]):
    """The templates by name. One that cannot be used costs itself alone: asking for it raises why.

    `broken` holds these errors by name; a broken template is not among the names.
    """

    def __init__(
        self, templates: Mapping[str, Template], broken: Mapping[str, TemplateError]
    ) -> None:
        """Keep both."""
        self._templates = templates
        self.broken = broken

    def __getitem__(self, name: str) -> Template:
        """Return a template; raise TemplateError for a broken one, KeyError for none."""
        if name in self.broken:
            error = self.broken[name]
            raise TemplateError(error.message, fix=error.fix)
        return self._templates[name]

    def __contains__(self, name: object) -> bool:
        """Say whether a template of that name can be used."""
        return name in self._templates

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the templates that can be used."""
        return iter(self._templates)

    def __len__(self) -> int:
        """Count the templates that can be used."""
        return len(self._templates)

    def require_all(self) -> None:
        """Raise TemplateError that names every template that cannot be used."""
        if self.broken:
            raise TemplateError(
                " ".join(f"{name}: {error}" for name, error in sorted(self.broken.items()))
            )


def load_all(root: Path) -> Catalogue:
    """Return every template under `root`; folders whose name begins with "_" are shared parts.

    Each is read and rendered once in a process of its own, with limits: a second or so for the
    folder, which is why it is done again only when something in it has changed.
    """
    return _load_all(root, _look_of(root))


def _look_of(root: Path) -> tuple[tuple[object, ...], ...]:
    """Return what tells an edited folder from the same one, without opening a file."""
    found = []
    for folder, _, files in os.walk(root):
        for name in files:
            place = os.path.join(folder, name)  # noqa: PTH118 - a walk gives texts
            about = os.lstat(place)
            found.append((place, about.st_size, about.st_mtime_ns, about.st_ino, about.st_mode))
    return tuple(sorted(found))


@lru_cache(maxsize=8)
def _load_all(root: Path, _: object) -> Catalogue:
    left = sorted(
        path.parent.name
        for path in root.glob("*/template.toml")
        if not path.parent.name.startswith("_")
    )
    templates: dict[str, Template] = {}
    broken: dict[str, TemplateError] = {}
    while left:
        answers, code = _try(root, left)
        for name, answer in zip(left, answers, strict=False):
            if "error" in answer:
                broken[name] = TemplateError(answer["error"], fix=answer["fix"])
            else:
                templates[name] = from_json(answer["template"])
        if len(answers) < len(left):
            name = left[len(answers)]
            broken[name] = _death(name, code)
        left = left[len(answers) + 1 :]
    return Catalogue(templates, broken)


def _try(root: Path, names: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Return what a process that tries these templates answers, and how it ended."""
    here = str(Path(__file__).resolve().parents[2])
    # Nothing of the service's own environment, which holds its secrets, goes along.
    kept = {key: os.environ[key] for key in ("PATH", "SYSTEMROOT", "LANG") if key in os.environ}
    limits = (str(MAX_MEMORY), str(MAX_SECONDS))
    try:
        # The folder and names are arguments of a list and no shell reads them.
        done = subprocess.run(  # noqa: S603
            [
                *(sys.executable, "-P", "-m", "notifier.rendering.trial"),
                *(str(root.absolute()), *limits, *names),
            ],
            env={**kept, "PYTHONPATH": here, "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_MAX_WAIT_SECONDS,
            check=False,
        )
        written, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        written, code = error.stdout or b"", -_TOO_LONG
    lines = written.split(b"\n")[:-1]
    if not lines:
        raise TemplateError(
            "The program that tries templates does not start.",
            fix=f"Run {sys.executable} -m notifier.rendering.trial to see why.",
        )
    return [json.loads(line) for line in lines[1:]], code


def _death(name: str, code: int) -> TemplateError:
    if code in {-_TOO_LONG, -signal.SIGKILL}:
        return TemplateError(
            f"The template '{name}' takes too long to compile.", fix="Simplify its texts."
        )
    return TemplateError(
        f"The template '{name}' ends the program that reads it.",
        fix="Simplify its texts: something in them is repeated or nested beyond any mail.",
    )


def faults(template: Template, data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return what keeps `data` from filling the template.

    Each is a JSON pointer (RFC 6901), a stable code and a sentence.
    """
    return [
        (pointer, problem.code, problem.en)
        for pointer, problem in problems_in(template.fields, template.lines, data)
    ]
