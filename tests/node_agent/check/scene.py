"""A site before and after its enrolment, a coordinator of cardboard behind real TLS, and the real embedded hub."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.manifest import canonical_json
from hsl_model.protocol.messages import HubAddress, HubPlace
from hsl_model.protocol.transport import HUB_PLACE
from node_agent.check.finding import CheckReport, Concern, Finding, Outcome, Part
from node_agent.check.run import Wanted, run_checks
from node_agent.enrol import NodeFile
from node_agent.keys import ensure_keys
from node_agent.settings import NodeSettings
from tests.embedded_hub.helpers import HubProcess
from tests.node_agent.tls import Authority, TlsService

_numbers = itertools.count(1)


class Cardboard(TlsService):
    """Says where its hub is; `says` is said instead."""

    def __init__(self, authority: Authority, hub: HubPlace, host: str = "localhost", **certificate: Any) -> None:
        super().__init__(authority, host, **certificate)
        self.hub: Any = hub
        self.url = f"https://{host}:{self.port}"

    def answer(self, method: str, path: str) -> Any:
        return self.hub if path == HUB_PLACE else None


@dataclass
class SiteUnderTest:
    workdir: Path
    coordinator_url: str
    told: list[Finding] = field(default_factory=list)
    proxy: str | None = None

    def enrol(self, hub: HubProcess, **changes: Any) -> str:
        """As an enrolment leaves it, with the key known to the hub; `changes` are of the hub's address."""
        node_id = f"checked-{next(_numbers)}"
        keys = ensure_keys(self.workdir / "keys")
        assert hub.admin("PUT", f"/nodes/{node_id}").is_success
        assert hub.admin("PUT", f"/nodes/{node_id}/key", ssh_public_key=keys.ssh_public_key).is_success
        known = {name: hub.info[name] for name in ("host", "port", "host_key")}
        address = HubAddress(**{**known, "username": node_id, **changes})
        node = NodeFile(node_id=node_id, alliance="Bones", coordinator_url=self.coordinator_url, hub=address)
        (self.workdir / "node.json").write_bytes(canonical_json(node))
        (self.workdir / "token").write_text("hsln_a-token")
        return node_id

    def check(self, **changes: Any) -> CheckReport:
        known: dict[str, Any] = {"coordinator_url": self.coordinator_url, "with_training": False}
        settings = NodeSettings(workdir=self.workdir, proxy_url=self.proxy)
        wanted = Wanted(settings=settings, **{**known, **changes})
        report = run_checks(wanted, SystemClock(), self.told.append)
        assert list(report.findings) == self.told
        return report


def outcome(report: CheckReport, part: Part, concern: Concern) -> Outcome:
    return of(report, part, concern).outcome


def of(report: CheckReport, part: Part, concern: Concern) -> Finding:
    (found,) = (one for one in report.findings if (one.part, one.concern) == (part, concern))
    return found


def amiss(findings: Iterable[Finding]) -> list[Finding]:
    """What an admin has to look at."""
    return [one for one in findings if one.outcome in (Outcome.FAILED, Outcome.WARNING)]


def the_one_amiss(report: CheckReport) -> Finding:
    """One cause, one line."""
    (found,) = amiss(report.findings)
    assert "\n" not in found.sentence
    return found
