"""How every service of an alliance answers an error."""

from collections.abc import Mapping
from typing import Self

from pydantic import Field

from hsl_model.protocol.config import Message
from hsl_model.protocol.errors import HslError

PROBLEM_MEDIA_TYPE = "application/problem+json"


class Problem(Message):
    """RFC 9457 problem details. `code` is stable; `detail` says what to do; `data` carries e.g. `accepted_sha256`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    data: dict[str, str | int | float | bool | None] = Field(default_factory=dict)

    @classmethod
    def of(cls, error: HslError, data: Mapping[str, object] | None = None) -> Self:
        return cls(
            type=f"urn:heterosync:problem:{error.code}",
            title=error.title,
            status=error.http_status,
            detail=error.sentence(),
            code=error.code,
            data=dict(data or {}),
        )
