"""Talking HTTP to a coordinator or to a site's agent, and turning every failure into one sentence."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from hsl_cli.errors import BadInputError, CommandError, RefusedError, UnreachableError
from hsl_model.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from hsl_model.protocol.problem import Problem
from hsl_model.protocol.views import Page
from node_agent.tls import checked_tls, distrust, is_loopback

Model = TypeVar("Model", bound=BaseModel)
PAGE_SIZE = 100


class Service:
    """One HTTP service: typed answers, `CommandError` for everything else."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        name: str,
        ca_file: Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url
        self.name = name
        headers = {"Authorization": f"Bearer {token}", PROTOCOL_HEADER: str(PROTOCOL_VERSION)}
        # 60 s: accepting a run makes a site read and check its images first.
        address, tls = checked_address(url), transport is not None or checked_tls(url, ca_file)
        self._http = httpx.Client(
            base_url=address,
            headers=headers,
            timeout=60.0,
            verify=tls,
            transport=transport,
            trust_env=not is_loopback(address.host),  # no proxy between us and this machine
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, answer: type[Model], **query: str | int | None) -> Model:
        return self._typed(answer, self.call("GET", path, query=query))

    def post(
        self,
        path: str,
        answer: type[Model],
        body: BaseModel | Mapping[str, object] | None = None,
        **query: str | int | None,
    ) -> Model:
        return self._typed(answer, self.call("POST", path, query=query, body=body))

    def all(self, path: str, item: type[Model], **query: str | int | None) -> Iterator[Model]:
        """Every item of a paged list."""
        offset = 0
        while True:
            page = self.get(path, Page[item], **query, offset=offset, limit=PAGE_SIZE)  # type: ignore[valid-type]
            yield from page.items
            offset += len(page.items)
            if not page.items or offset >= page.total:
                return

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int | None] | None = None,
        body: BaseModel | Mapping[str, object] | None = None,
    ) -> httpx.Response:
        content = body.model_dump(mode="json") if isinstance(body, BaseModel) else body
        wanted = {key: value for key, value in (query or {}).items() if value is not None}
        try:
            reply = self._http.request(method, path, params=wanted, json=content)
        except httpx.HTTPError as error:
            why = f"Cannot reach {self.name} at {self.url} ({type(error).__name__}): is it running, "
            raise UnreachableError(reason=distrust(error) or f"{why}and is the address right?") from error
        if reply.is_success:
            return reply
        raise _refusal(self.name, reply)

    def _typed(self, answer: type[Model], reply: httpx.Response) -> Model:
        try:
            return answer.model_validate_json(reply.content)
        except ValidationError as error:
            raise RefusedError(
                reason=f"{self.name} at {self.url} gave an answer this `hsl` does not understand "
                f"({_first(error)}): are both of the same version?"
            ) from error


def checked_address(url: str) -> httpx.URL:
    """The address, if it is one that HTTP can be spoken to."""
    wrong = BadInputError(reason=f"{url!r} is not an address; expected e.g. http://127.0.0.1:8070.")
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise wrong from error
    if address.scheme not in ("http", "https") or not address.host:
        raise wrong
    return address


def _refusal(name: str, reply: httpx.Response) -> CommandError:
    try:
        sentence = Problem.model_validate_json(reply.content).detail
    except ValidationError:
        sentence = f"{name} answered {reply.status_code} {reply.reason_phrase} to {reply.request.url.path}."
    if reply.status_code in (502, 503, 504):  # it, or what it needs, is being restarted
        return UnreachableError(reason=sentence)
    if reply.status_code in (400, 422):
        return BadInputError(reason=sentence)
    return RefusedError(reason=sentence, status=reply.status_code)


def _first(error: ValidationError) -> str:
    found: Any = error.errors()[0]
    return f"{'.'.join(map(str, found['loc'])) or 'body'}: {found['msg']}"
