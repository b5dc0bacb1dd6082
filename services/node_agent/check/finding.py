"""What a check found, as one line."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from hsl_model.protocol.config import Message
from node_agent.proxy import Proxy


class Outcome(StrEnum):
    OK = "ok"
    WARNING = "warning"  # it will work, with this in mind
    FAILED = "failed"
    SKIPPED = "not checked"  # something before it failed, or it is possible only after enrolment


class Concern(StrEnum):
    """What a line is about; `part` of a finding says of which: coordinator or hub."""

    NAME = "name"
    PROXY = "proxy"
    PORT = "port"
    CERTIFICATE = "certificate"
    ANSWER = "answer"
    CLOCK = "clock"
    HOST_KEY = "host key"
    UPLOAD = "upload"
    DOWNLOAD = "download"
    DISK = "disk"
    TRAINING = "training"


class Part(StrEnum):
    COORDINATOR = "coordinator"
    HUB = "hub"
    HERE = "here"


# A failure of these means: the other side was not reached. Of the others: it was, and something else is wrong.
OF_THE_WAY = frozenset({Concern.NAME, Concern.PROXY, Concern.PORT, Concern.ANSWER})


class Ask(Message):
    """What the network has to let through. Always outgoing: nothing connects into the house."""

    host: str
    port: int
    protocol: str = Field(description="what runs over TCP, e.g. HTTPS")
    direction: str = "outgoing"
    wish: str = Field(default="allow", description="what the firewall team is asked to do")

    def line(self) -> str:
        return f"{self.wish} {self.direction} TCP to {self.host} port {self.port} ({self.protocol})"


class Finding(Message):
    part: Part
    concern: Concern
    outcome: Outcome
    sentence: str = Field(description="the cause, or what was found")
    ask: Ask | None = None
    measured: dict[str, float] = Field(default_factory=dict, description="names carry units")


class Place(Message):
    """Somewhere to connect to, and by which way."""

    part: Part
    host: str
    port: int
    protocol: str
    proxy: Proxy | None = Field(default=None, exclude=True, repr=False)

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}"

    def found(
        self, concern: Concern, outcome: Outcome, sentence: str, wish: str = "allow", **measured: float
    ) -> Finding:
        return Finding(
            part=self.part,
            concern=concern,
            outcome=outcome,
            sentence=sentence,
            ask=self._ask(wish),
            measured=measured,
        )

    @property
    def needed(self) -> tuple[Ask, ...]:
        """All that has to be let through on the way here."""
        if self.proxy is None:
            return (self._ask("allow"),)
        to_proxy = Ask(host=self.proxy.host, port=self.proxy.port, protocol="HTTP CONNECT")
        return to_proxy, self._ask("allow")

    def _ask(self, wish: str) -> Ask:
        wish = wish if self.proxy is None else f"at the proxy {self.proxy.place}, {wish}"
        return Ask(host=self.host, port=self.port, protocol=self.protocol, wish=wish)


class Estimate(Message):
    """How long a round will take here. A part that was not measured is None, and so is the whole."""

    training_s: float | None
    transfer_s: float | None
    sentence: str

    @property
    def total_s(self) -> float | None:
        return None if self.training_s is None or self.transfer_s is None else self.training_s + self.transfer_s


class CheckReport(Message):
    at: datetime
    agent_version: str
    is_enrolled: bool
    findings: tuple[Finding, ...]
    needed: tuple[Ask, ...] = Field(description="what the network has to let through, whatever was found")
    estimate: Estimate

    @property
    def failed(self) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.outcome is Outcome.FAILED)
