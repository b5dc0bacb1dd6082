"""`HubAdmin` for the embedded hub, over its loopback HTTP API."""

from http import HTTPStatus
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from coordinator.hub.admin import (
    HubAdminError,
    HubAnswerError,
    HubDownError,
    HubFile,
    HubRefusedError,
    HubTokenError,
)
from hsl_model.protocol.messages import HubAddress
from hsl_model.protocol.paths import node_folder
from hsl_model.protocol.problem import Problem

# The hub is on this machine and answers within milliseconds; one that hangs must not hold an admin's request for long.
TIMEOUT_S = 10.0

Answer = TypeVar("Answer", bound=BaseModel)


class _Address(BaseModel):
    host: str
    port: int
    host_key: str


class _File(BaseModel):
    name: str
    num_bytes: int


class _Files(BaseModel):
    files: tuple[_File, ...]


class EmbeddedHubAdmin:
    """Safe to use from several threads. A node id outside the layout is `RemotePathError`, before anything is sent."""

    def __init__(self, admin_url: str, admin_token: str) -> None:
        self._url = admin_url
        self._http = httpx.Client(
            base_url=admin_url,
            headers={"Authorization": f"Bearer {admin_token}"},
            timeout=TIMEOUT_S,
            trust_env=False,  # a proxy for the outside world must not get between us and loopback
        )

    def ensure_node(self, node_id: str) -> None:
        self._call("PUT", node_folder(node_id), ("create node", node_id))

    def set_key(self, node_id: str, ssh_public_key: str) -> None:
        self._call(
            "PUT", f"{node_folder(node_id)}/key", ("set the key of", node_id), {"ssh_public_key": ssh_public_key}
        )

    def cut(self, node_id: str) -> None:
        self._call("POST", f"{node_folder(node_id)}/cut", ("cut", node_id))

    def list(self, node_id: str) -> tuple[HubFile, ...]:
        reply = self._call("GET", f"{node_folder(node_id)}/files", ("list", node_id))
        return tuple(HubFile(file.name, file.num_bytes) for file in self._typed(_Files, reply).files)

    def release(self, node_id: str, names: tuple[str, ...]) -> None:
        if names:
            self._call("POST", f"{node_folder(node_id)}/release", ("release files of", node_id), {"names": names})

    def address(self, node_id: str) -> HubAddress:
        found = self._typed(_Address, self._call("GET", "/address", ("tell the address of", node_id)))
        return HubAddress(host=found.host, port=found.port, username=node_id, host_key=found.host_key)

    def healthy(self) -> bool:
        try:
            self._call("GET", "/address", ("answer", ""))
        except HubAdminError:
            return False
        return True

    def close(self) -> None:
        self._http.close()

    def _call(
        self, method: str, path: str, doing: tuple[str, str], body: dict[str, object] | None = None
    ) -> httpx.Response:
        try:
            reply = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise HubDownError(url=self._url, reason=type(error).__name__) from error
        if reply.is_success:
            return reply
        if reply.status_code == HTTPStatus.UNAUTHORIZED:
            raise HubTokenError(url=self._url)
        try:
            reason = Problem.model_validate_json(reply.content).detail
        except ValidationError as error:
            raise HubAnswerError(url=self._url, status=reply.status_code) from error
        action, node_id = doing
        raise HubRefusedError(action=action, node_id=node_id, reason=reason)

    def _typed(self, answer: type[Answer], reply: httpx.Response) -> Answer:
        try:
            return answer.model_validate_json(reply.content)
        except ValidationError as error:
            raise HubAnswerError(url=self._url, status=reply.status_code) from error
