"""What the agent says to the coordinator, and what can come back instead of an answer.

Everything leaves through `_send`, which writes the egress ledger first. Every failure becomes one `CoordinatorError`
with a `FailureKind`, by the table below; raw exception text goes no further.
"""

from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import httpx
from pydantic import ValidationError

from hsl_model.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION, transport
from hsl_model.protocol.config import Message
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.ledger import Mark, RecordReport, parse_mark
from hsl_model.protocol.manifest import SignedManifest, canonical_json
from hsl_model.protocol.messages import (
    AcceptRequest,
    AnnounceReply,
    AnnounceRequest,
    DesiredRequest,
    DesiredState,
    EnrolReply,
    EnrolRequest,
    FusionReport,
    Heartbeat,
    HubAddress,
    PublishedReport,
    RefusalReport,
    RotateRequest,
)
from hsl_model.protocol.problem import Problem
from hsl_model.protocol.retry import FailureKind
from node_agent.egress import EgressLedger
from node_agent.ledger_memory import LedgerMemory
from node_agent.proxy import ProxyRefusedError, status_in
from node_agent.tls import distrust

Answer = TypeVar("Answer", bound=Message)

# No answer within this many seconds is a dead line: a request would otherwise hang on a half-open connection for hours.
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
# A long poll may be answered this much later than asked for, before the line counts as dead.
POLL_MARGIN_S = 20.0

TRANSLATION: tuple[tuple[type[Exception], FailureKind], ...] = (  # the first that fits
    (httpx.TimeoutException, FailureKind.TIMEOUT),
    (httpx.UnsupportedProtocol, FailureKind.REJECTED),
    (httpx.LocalProtocolError, FailureKind.BUG),
    (httpx.TransportError, FailureKind.CONNECTION),
    (httpx.DecodingError, FailureKind.SERVER_ERROR),
    (httpx.TooManyRedirects, FailureKind.REJECTED),
    (httpx.InvalidURL, FailureKind.REJECTED),
)

STATUS_KINDS: dict[int, FailureKind] = {
    401: FailureKind.DENIED,
    403: FailureKind.DENIED,
    408: FailureKind.TIMEOUT,
    425: FailureKind.SERVER_ERROR,
    426: FailureKind.VERSION,
    429: FailureKind.SERVER_ERROR,
}

CODE_KINDS: dict[str, FailureKind] = {
    # Another live agent holds this identity: an admin releases it, and then the same request passes.
    "duplicate_instance": FailureKind.LIMIT,
    # The coordinator is further than the desired state this was based on; the next one will say what is wanted.
    "plan_superseded": FailureKind.NOT_YET_THERE,
    "round_over": FailureKind.NOT_YET_THERE,
    "round_unknown": FailureKind.NOT_YET_THERE,
    "run_state": FailureKind.NOT_YET_THERE,
    # The ledger was restored from a backup; an admin decides about this node, or recovers the ledger.
    "node_suspended": FailureKind.LIMIT,
    "ledger_held": FailureKind.LIMIT,
}


class CoordinatorError(HslError):
    """The coordinator could not be asked, or refused. `problem_code` and `details` are its own, if it answered."""

    code = "coordinator_refused"
    http_status = 502
    title = "The coordinator did not do what it was asked"
    template = "{sentence}"

    def __init__(self, kind: FailureKind, problem_code: str, sentence: str, **details: object) -> None:
        super().__init__(sentence=sentence, problem_code=problem_code)
        self.kind = kind
        self.problem_code = problem_code
        self.reported_code = problem_code
        self.details = details


@dataclass(frozen=True)
class Boot:
    """Which start of this agent is speaking: the number from the journal, and an id drawn at the start."""

    number: int
    boot_id: str


class CoordinatorClient:
    """One per thread of the agent that talks for itself; `httpx.Client` keeps the connections."""

    def __init__(
        self,
        url: str,
        ledger: EgressLedger,
        *,
        token: Callable[[], str] | None = None,
        boot: Boot | None = None,
        memory: LedgerMemory | None = None,
        http_transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {PROTOCOL_HEADER: str(PROTOCOL_VERSION), "Content-Type": "application/json"}
        if boot is not None:
            headers[transport.BOOT_NUMBER_HEADER] = str(boot.number)
            headers[transport.BOOT_ID_HEADER] = boot.boot_id
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT, transport=http_transport)
        except httpx.InvalidURL as error:
            raise _translated(error) from error
        self._url = url
        self._ledger = ledger
        self._memory = memory
        self.mark: Mark | None = None  # of the newest reply
        self._token = token  # asked for with each request: it may be rotated at any time

    def close(self) -> None:
        self._http.close()

    def enrol(self, request: EnrolRequest) -> EnrolReply:
        return self._ask(transport.ENROL, request, EnrolReply)

    def desired(self, request: DesiredRequest) -> DesiredState:
        """With what this node has seen of the coordinator's ledger; what it is told of it is kept."""
        timeout = httpx.Timeout(request.wait_s + POLL_MARGIN_S, connect=TIMEOUT.connect)
        if self._memory is not None:
            request = request.model_copy(update={"seen": self._memory.seen()})
        body = canonical_json(request)
        self._ledger.control(transport.DESIRED, body)
        desired = _parsed(self._send(transport.DESIRED, body, timeout), DesiredState)
        if self._memory is not None:
            self._memory.told(desired)
        return desired

    def heartbeat(self, message: Heartbeat) -> None:
        body = canonical_json(message)
        self._ledger.control(transport.HEARTBEAT, body)
        self._send(transport.HEARTBEAT, body, TIMEOUT)

    def rotate(self, request: RotateRequest) -> None:
        self._tell(transport.ROTATE, request)

    def hub(self) -> HubAddress:
        """As the coordinator knows it now."""
        self._ledger.append("message", transport.HUB, b"", ())
        return _parsed(self._send(transport.HUB, b"", TIMEOUT), HubAddress)

    def accept(self, run_id: str, request: AcceptRequest) -> None:
        self._tell(transport.accept(run_id), request)

    def withdraw(self, run_id: str) -> None:
        self._ledger.append("message", transport.withdraw(run_id), b"", ())
        self._send(transport.withdraw(run_id), b"", TIMEOUT)

    def announce(self, run_id: str, round_number: int, signed: SignedManifest) -> AnnounceReply:
        return self._ask(transport.announce(run_id, round_number), AnnounceRequest(signed=signed), AnnounceReply)

    def refuse(self, run_id: str, round_number: int, report: RefusalReport) -> None:
        self._tell(transport.refusals(run_id, round_number), report)

    def report_fusion(self, run_id: str, round_number: int, report: FusionReport) -> None:
        self._tell(transport.fusion(run_id, round_number), report)

    def published(self, report: PublishedReport) -> None:
        self._tell(transport.PUBLISHED, report)

    def record(self, report: RecordReport) -> None:
        self._tell(transport.RECORDS, report)

    def _tell(self, path: str, message: Message) -> httpx.Response:
        body = canonical_json(message)
        self._ledger.message(path, message, body)
        return self._send(path, body, TIMEOUT)

    def _ask(self, path: str, message: Message, answer: type[Answer]) -> Answer:
        return _parsed(self._tell(path, message), answer)

    def _send(self, path: str, body: bytes, timeout: httpx.Timeout) -> httpx.Response:
        token = self._token() if self._token else None
        reply = self._post(path, body, timeout, token)
        if reply.status_code == HTTPStatus.UNAUTHORIZED and self._token and (now := self._token()) != token:
            reply = self._post(path, body, timeout, now)  # it was rotated while this request was on its way
        self.mark = parse_mark(reply.headers.get(transport.LEDGER_HEADER))
        if self.mark is not None and self._memory is not None:
            self._memory.saw(self.mark, self._url)
        if reply.is_success:
            return reply
        raise _refusal(reply)

    def _post(self, path: str, body: bytes, timeout: httpx.Timeout, token: str | None) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            return self._http.post(path, content=body, timeout=timeout, headers=headers)
        except tuple(kind for kind, _ in TRANSLATION) as error:
            raise _translated(error) from error


def _translated(error: Exception) -> CoordinatorError:
    kind = next(kind for known, kind in TRANSLATION if isinstance(error, known))
    if isinstance(error, httpx.ProxyError):
        return CoordinatorError(kind, ProxyRefusedError.code, ProxyRefusedError(status_in(error)).sentence())
    if kind is FailureKind.REJECTED:
        sentence = "The coordinator's address is not usable; check HSL_NODE_COORDINATOR_URL."
    elif (doubt := distrust(error)) is not None:  # certificates are renewed and clocks are set: worth another try
        return CoordinatorError(kind, "coordinator_certificate", doubt)
    else:
        sentence = f"The coordinator could not be reached ({type(error).__name__}); is the line up?"
    return CoordinatorError(kind, f"coordinator_{kind}", sentence)


def _refusal(reply: httpx.Response) -> CoordinatorError:
    kind = STATUS_KINDS.get(reply.status_code)
    if kind is None:
        kind = FailureKind.SERVER_ERROR if reply.status_code >= 500 or reply.is_redirect else FailureKind.REJECTED
    try:
        problem = Problem.model_validate_json(reply.content)
    except ValidationError:  # a proxy's page, or a coordinator much newer than we
        sentence = f"The coordinator, or something before it, answered {reply.status_code}."
        return CoordinatorError(kind, f"http_{reply.status_code}", sentence)
    return CoordinatorError(CODE_KINDS.get(problem.code, kind), problem.code, problem.detail, **problem.data)


def _parsed(reply: httpx.Response, answer: type[Answer]) -> Answer:
    try:
        return answer.model_validate_json(reply.content)
    except ValidationError as error:  # a login page of a proxy answers 200 too: worth another try
        sentence = "The coordinator's answer is not of this protocol; is a proxy in between, or is this agent too old?"
        raise CoordinatorError(FailureKind.SERVER_ERROR, "answer_invalid", sentence) from error
