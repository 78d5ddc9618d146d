"""Reads the files of one template, which nobody has looked over: no larger, from nowhere else."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import BaseLoader, Environment

from notifier.errors import TemplateError

MAX_FILE_BYTES = 64 * 1024
SHARED = "_base"

_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*")
# The time that tomllib takes for a dotted key grows with the square of its parts; ours have three.
_MAX_DOTS_PER_LINE = 100


class Folder(BaseLoader):
    """The files of a template's own folder and of `_base/`, by the paths that templates write.

    Jinja loads through it; `used` keeps every text that was loaded, to be frozen.
    """

    def __init__(self, root: Path, name: str) -> None:
        """Read below `root`, the folder of all templates."""
        self._root = root.resolve()
        self._name = name
        self.used: dict[str, str] = {}

    def shown(self, path: str) -> str:
        """Return the path as people see it, from the folder of all templates."""
        return path if path.startswith(f"{SHARED}/") else f"{self._name}/{path}"

    def text(self, path: str) -> str:
        """Return a file as NFC with LF line ends; raise TemplateError naming it."""
        shown = self.shown(path)
        data = self._read(shown)
        if len(data) > MAX_FILE_BYTES:
            raise TemplateError(f"The file {shown} is larger than {MAX_FILE_BYTES // 1024} kB.")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise TemplateError(
                f"The file {shown} is not UTF-8.", fix="Save it as UTF-8."
            ) from None
        return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))

    def _read(self, shown: str) -> bytes:
        """Return the bytes of a file, one more than allowed at most."""
        folder = self._root / shown.partition("/")[0]
        # A path is part of an untrusted text, and a link is as good as a path: neither leaves the
        # folder.
        if not _PATH.fullmatch(shown) or ".." in shown.split("/"):
            raise _missing(shown)
        try:
            place = (self._root / shown).resolve(strict=True)
            if not place.is_relative_to(folder):
                raise TemplateError(
                    f"The file {shown} is a link that leads out of its folder.",
                    fix="Put the file itself there.",
                )
            if not place.is_file():
                raise _missing(shown)
            with place.open("rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except (OSError, RuntimeError):
            # A file that may not be read, a name that is too long, links in a circle.
            raise _missing(shown) from None

    def toml(self, path: str) -> dict[str, Any]:
        """Return a TOML file's values; raise TemplateError naming it."""
        shown = self.shown(path)
        text = self.text(path)
        if any(line.count(".") > _MAX_DOTS_PER_LINE for line in text.split("\n")):
            raise TemplateError(
                f"The file {shown} has a line with more than {_MAX_DOTS_PER_LINE} dots."
            )
        try:
            return tomllib.loads(text)
        except RecursionError:
            raise TemplateError(f"The file {shown} is nested too deeply.") from None
        except ValueError as error:
            # Also a number of thousands of digits, which is no TOMLDecodeError.
            raise TemplateError(f"The file {shown} is not valid TOML: {error}.") from error

    def get_source(
        self,
        environment: Environment,  # noqa: ARG002 - Jinja's protocol
        template: str,
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        """Return a text to Jinja, and keep it."""
        text = self.used[template] = self.text(template)
        return text, None, None


def _missing(shown: str) -> TemplateError:
    return TemplateError(f"The file {shown} is missing.")
