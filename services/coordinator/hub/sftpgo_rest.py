"""The calls to an SFTPGo hub: to its supervisor's small API, and to SFTPGo's REST API with two identities.

    supervisor    /address, /restart            bearer: the hub's admin token
    admin         /api/v2/users, quotas         logs in as the admin `hsl.coordinator`, password: the same token
    files         /api/v2/user/dirs, files      logs in as the user of that name, which may list, make folders, delete

SFTPGo's bearer tokens live for 20 minutes at most and end with the server: a refused one is renewed once.
"""

from enum import StrEnum
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from coordinator.hub.admin import HubAnswerError, HubDownError, HubLoginError, HubRefusedError, HubTokenError
from hsl_model.protocol.paths import COORDINATOR_USER
from hsl_model.protocol.problem import Problem

TIMEOUT_S = 10.0  # the hub is near and answers within milliseconds; one that hangs must not hold an admin's request
RESTART_TIMEOUT_S = 70.0  # longer than the supervisor's own patience, so that its sentence arrives

Answer = TypeVar("Answer", bound=BaseModel)
Doing = tuple[str, str]  # what, and to which node: for the sentence of a refusal


class Address(BaseModel):
    host: str
    port: int
    host_key: str
    rest_port: int
    files_folder: str


class Identity(StrEnum):
    """Where each logs in."""

    ADMIN = "/api/v2/token"
    FILES = "/api/v2/user/token"


class _Token(BaseModel):
    access_token: str


class _Refusal(BaseModel):
    """SFTPGo's own words: `message` says what it could not do, `error` why."""

    message: str = ""
    error: str = ""


class SftpgoRest:
    """Safe to use from several threads. Raises `HubAdminError`s only."""

    def __init__(self, admin_url: str, admin_token: str) -> None:
        self.url = admin_url
        self._secret = admin_token
        self._http = httpx.Client(timeout=TIMEOUT_S, trust_env=False)  # no proxy between us and a private network
        self._address: Address | None = None
        self._tokens: dict[Identity, str] = {}

    def close(self) -> None:
        self._http.close()

    # --- the supervisor ----------------------------------------------------------------------------------------------

    def address(self) -> Address:
        """As the supervisor tells it now."""
        reply = self._supervisor("GET", "/address", ("tell the address of", "the hub"))
        self._address = _typed(Address, reply, self.url)
        return self._address

    def restart(self, node_id: str) -> None:
        """Every connection that was open before has ended when this returns."""
        self._supervisor("POST", "/restart", ("end the connections of", node_id), RESTART_TIMEOUT_S)

    def _supervisor(self, method: str, path: str, doing: Doing, timeout_s: float = TIMEOUT_S) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._secret}"}
        reply = self._send(self._http.build_request(method, self.url + path, headers=headers, timeout=timeout_s))
        if reply.is_success:
            return reply
        if reply.status_code == HTTPStatus.UNAUTHORIZED:
            raise HubTokenError(url=self.url)
        raise HubRefusedError(action=doing[0], node_id=doing[1], reason=_typed(Problem, reply, self.url).detail)

    # --- SFTPGo ------------------------------------------------------------------------------------------------------

    def call(self, identity: Identity, method: str, path: str, doing: Doing, **content: Any) -> httpx.Response | None:
        """The answer, or None for 404. `content`: json, params."""
        reply = self._authorised(identity, method, path, content)
        if reply.status_code == HTTPStatus.UNAUTHORIZED:  # expired, or the server is a new one
            self._tokens.pop(identity, None)
            reply = self._authorised(identity, method, path, content)
        if reply.is_success:
            return reply
        if reply.status_code == HTTPStatus.NOT_FOUND:
            return None
        if reply.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise HubLoginError(url=self._rest_url())
        if reply.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            raise self._down("it is being restarted")
        refusal = _typed(_Refusal, reply, self._rest_url())
        raise HubRefusedError(action=doing[0], node_id=doing[1], reason=f"{refusal.message} {refusal.error}".strip())

    def _authorised(self, identity: Identity, method: str, path: str, content: dict[str, Any]) -> httpx.Response:
        token = self._tokens.get(identity) or self._log_in(identity)
        headers = {"Authorization": f"Bearer {token}"}
        return self._send(self._http.build_request(method, self._rest_url() + path, headers=headers, **content))

    def _log_in(self, identity: Identity) -> str:
        credentials = httpx.BasicAuth(COORDINATOR_USER, self._secret)
        request = self._http.build_request("GET", self._rest_url() + identity)
        reply = self._send(request, credentials)
        if reply.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise HubLoginError(url=self._rest_url())
        if not reply.is_success:
            raise self._down(f"HTTP {reply.status_code}")
        self._tokens[identity] = _typed(_Token, reply, self._rest_url()).access_token
        return self._tokens[identity]

    def _rest_url(self) -> str:
        """On the supervisor's host, at the port it tells."""
        port = (self._address or self.address()).rest_port
        return str(httpx.URL(self.url).copy_with(port=port, path="/", query=None)).rstrip("/")

    def _send(self, request: httpx.Request, credentials: httpx.Auth | None = None) -> httpx.Response:
        try:
            return self._http.send(request, auth=credentials)
        except httpx.HTTPError as error:
            raise self._down(type(error).__name__) from error

    def _down(self, reason: str) -> HubDownError:
        self._address = None  # it may come back elsewhere
        return HubDownError(url=self.url, reason=reason)


def _typed(answer: type[Answer], reply: httpx.Response, url: str) -> Answer:
    try:
        return answer.model_validate_json(reply.content)
    except ValidationError as error:
        raise HubAnswerError(url=url, status=reply.status_code) from error
