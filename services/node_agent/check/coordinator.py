"""Does the coordinator answer, where is its hub, what time is it there? Needs no token and says nothing of the site."""

from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx
from pydantic import ValidationError

from hsl_model.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION
from hsl_model.protocol.clock import Clock
from hsl_model.protocol.messages import HubPlace
from hsl_model.protocol.transport import HUB_PLACE
from node_agent.check.finding import Concern, Finding, Outcome, Place
from node_agent.coordinator_client import TIMEOUT


@dataclass(frozen=True)
class Answer:
    """`server_time` is None where the answer was not the coordinator's own."""

    finding: Finding
    hub: HubPlace | None = None
    server_time: datetime | None = None
    local_time: datetime | None = None
    round_trip_s: float = 0.0


def ask_coordinator(place: Place, url: str, way: httpx.BaseTransport, clock: Clock) -> Answer:
    """`way`: `proxy.way_out`. Closed here."""
    headers = {PROTOCOL_HEADER: str(PROTOCOL_VERSION)}
    began_s, began = clock.monotonic(), clock.now()
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT, transport=way) as http:
            reply = http.get(HUB_PLACE)
    except httpx.HTTPError as error:
        sentence = f"{place.name} takes the connection, but gives no answer to a question ({type(error).__name__})."
        return Answer(place.found(Concern.ANSWER, Outcome.FAILED, sentence, "let answers pass, unchanged, of"))
    took_s = clock.monotonic() - began_s
    finding, hub = _judged(place, reply)
    if finding.outcome is Outcome.FAILED:
        return Answer(finding)
    return Answer(finding, hub, _date_of(reply), began + (clock.now() - began) / 2, took_s)


def _judged(place: Place, reply: httpx.Response) -> tuple[Finding, HubPlace | None]:
    if reply.is_success:
        try:
            hub = HubPlace.model_validate_json(reply.content)
        except ValidationError:
            sentence = (
                f"What answers at {place.name} is no coordinator; a proxy's login page does that, or a wrong address."
            )
            return place.found(Concern.ANSWER, Outcome.FAILED, sentence), None
        return place.found(
            Concern.ANSWER, Outcome.OK, f"The coordinator answers; its hub is {hub.host}:{hub.port}."
        ), hub
    if reply.status_code == 426:
        sentence = (
            f"The coordinator does not speak version {PROTOCOL_VERSION} of the protocol: upgrade the older of the two."
        )
        return place.found(Concern.ANSWER, Outcome.FAILED, sentence), None
    if reply.status_code in (404, 405):
        sentence = "The coordinator, if it is one, is older and does not say where its hub is: give --hub HOST:PORT."
        return place.found(Concern.ANSWER, Outcome.WARNING, sentence), None
    if reply.status_code == 503:
        sentence = "The coordinator answers, but cannot say now where its hub is: give --hub HOST:PORT, or ask later."
        return place.found(Concern.ANSWER, Outcome.WARNING, sentence), None
    sentence = f"{place.name} answers {reply.status_code} to a question that needs no login: is a proxy in between?"
    return place.found(Concern.ANSWER, Outcome.FAILED, sentence), None


def _date_of(reply: httpx.Response) -> datetime | None:
    try:
        found = parsedate_to_datetime(reply.headers["Date"])
    except (KeyError, ValueError):
        return None
    return found if found.tzinfo is not None else None
