"""Bodies as dependencies: read up to a limit behind the key, and only then parsed.

FastAPI by itself reads and parses a body before any dependency is asked, and checks Python values;
here the key comes first, and pydantic's strict JSON mode parses and checks in one step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from notifier.web.api.context import Here
from notifier.web.api.problems import ProblemError, of_validation

M = TypeVar("M", bound=BaseModel)
JSON = "application/json"
# What takes longer to parse than the way to a thread and back.
_LARGE = 16 * 1024


@dataclass(frozen=True, slots=True)
class Sent(Generic[M]):
    """A body as it came, and what it says."""

    raw: bytes
    value: M


@dataclass(frozen=True, slots=True)
class File:
    """A file as it came; `kind` is its media type."""

    content: bytes
    kind: str


class Body:
    """A body of at most `most` bytes of one of some media types."""

    def __init__(self, most: int, kinds: tuple[str, ...], *, required: bool = True) -> None:
        """Take `kinds` only."""
        self.most = most
        self.kinds = kinds
        self.required = required

    def schema(self) -> Mapping[str, Any]:
        """Return what the document says of the content."""
        return {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}

    def described(self) -> dict[str, Any]:
        """Return what the document says of the body."""
        return {"required": self.required, "content": dict.fromkeys(self.kinds, self.schema())}

    async def read(self, request: Request) -> File:
        """Return the body; raise ProblemError 413 or 415. A longer one is not read to its end."""
        assert hasattr(request.state, "key"), "the key is asked for first"  # noqa: S101
        sent = request.headers.get("content-type", "")
        kind = sent.partition(";")[0].strip().lower()
        if kind not in self.kinds and (self.required or sent):
            raise ProblemError(
                415,
                "media-type",
                f"Send the body as {' or '.join(self.kinds)}.",
                headers={"Accept": ", ".join(self.kinds)},
            )
        parts: list[bytes] = []
        size = 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > self.most:
                    raise ProblemError(
                        413,
                        "too-large",
                        f"The body may have at most {self.most:,} bytes.",
                        headers={"Connection": "close"},
                    )
                parts.append(part)
        except ClientDisconnect:
            raise ProblemError(400, "bad-json", "The body ended too soon.") from None
        return File(b"".join(parts), kind)


class JsonBody(Body, Generic[M]):
    """A body that a model describes."""

    def __init__(self, model: type[M], most: int, *, required: bool = True) -> None:
        """Take what `model` takes; an empty body, when it is not `required`, is an empty object."""
        super().__init__(most, (JSON,), required=required)
        self.model = model

    def schema(self) -> Mapping[str, Any]:
        """Refer to the model."""
        found: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{self.model.__name__}"}}
        extra = self.model.model_config.get("json_schema_extra")
        if isinstance(extra, dict) and isinstance(extra.get("examples"), list):
            found["example"] = extra["examples"][0]  # type: ignore[index]
        return found

    async def __call__(self, request: Request, here: Here) -> Sent[M]:
        """Read and parse; raise ProblemError."""
        raw = (await self.read(request)).content
        value = await here.run(self._parse, raw) if len(raw) > _LARGE else self._parse(raw)
        return Sent(raw, value)

    def _parse(self, raw: bytes) -> M:
        try:
            return self.model.model_validate_json(raw if self.required or raw.strip() else b"{}")
        except ValidationError as error:
            raise of_validation(error) from None


class FileBody(Body):
    """A body that is a file."""

    async def __call__(self, request: Request) -> File:
        """Read it; raise ProblemError."""
        found = await self.read(request)
        if not found.content:
            raise ProblemError(400, "invalid", "The file is empty.")
        return found


class Operation(APIRoute):
    """A route whose document knows the body that a dependency reads."""

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        """Look for the body among the dependencies."""
        super().__init__(path, endpoint, **options)
        self.body: Body | None = None
        for each in self.dependant.dependencies:
            if isinstance(each.call, Body):
                self.body = each.call
        if self.body is not None:
            self.openapi_extra = {
                **(self.openapi_extra or {}),
                "requestBody": self.body.described(),
            }
