"""The site API: what the hospital's admin sees and decides, on loopback, with a token only the agent's user can read.

`workdir/site.json` says where it listens and with which token; it is written anew at each start. Writing endpoints
change the journal or the mailbox and wake the daemon; they never do the work themselves.
"""

import hmac
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request

from hsl_model.protocol.config import Message, RunConfig
from hsl_model.protocol.errors import HslError
from node_agent import rotation
from node_agent.bindings import BindingFile, list_bindings, read_binding, write_binding
from node_agent.consents import Answer, Consents
from node_agent.context import Context
from node_agent.egress import verify
from node_agent.enrol import AGENT_VERSION, load_identity, write_node_file
from node_agent.errors import NothingHeldError, RunUnknownError
from node_agent.peers import HUB, Held, fingerprint
from node_agent.poller import pause
from node_agent.site_problems import answer_with_problems
from node_agent.status import HeldKey, PeerKey, RunSummary, SiteStatus, explain, retry_in_s, summarise

logger = structlog.get_logger(__name__)


class SiteTokenError(HslError):
    code = "site_token_invalid"
    http_status = 401
    title = "Not this agent's token"
    template = "Send the token of the agent's site.json as `Authorization: Bearer ...`."


class SiteFile(Message):
    """`site.json`."""

    url: str
    token: str


class EgressState(Message):
    num_entries: int
    num_bytes: int
    head: str


@dataclass(frozen=True)
class Site:
    """What the endpoints work on."""

    context: Context
    consents: Consents
    boot_number: int
    token: str

    def config_of(self, run_id: str) -> RunConfig | None:
        desired = self.context.mailbox.desired
        if desired is None:
            return None
        assignment = desired.assignment
        if assignment is not None and assignment.run_id == run_id:
            return assignment.config
        return next((found.config for found in desired.invitations if found.run_id == run_id), None)

    def held(self) -> list[Held]:
        """Keys that wait for the admin, the hub's first."""
        context, desired = self.context, self.context.mailbox.desired
        hub = context.peers.held_hub(context.identity.node.hub)
        peers = context.peers.look(desired.roster if desired else ())
        return ([hub] if hub else []) + [peers[name] for name in sorted(peers)]

    def summary(self, run_id: str) -> RunSummary:
        consent, config = self.consents.get(run_id), self.config_of(run_id)
        if consent is None and config is not None:
            self.consents.invite(run_id, config.task.task_id)
            consent = self.consents.get(run_id)
        if consent is None:
            raise RunUnknownError(run_id=run_id)
        return summarise(consent, config)


def _site(request: Request) -> Site:
    site = request.app.state.site
    assert isinstance(site, Site)  # noqa: S101 - put there by `create_site_app`
    return site


def _authorised(site: Annotated[Site, Depends(_site)], authorization: Annotated[str | None, Header()] = None) -> Site:
    given = (authorization or "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode(), site.token.encode()):
        raise SiteTokenError
    return site


SiteDep = Annotated[Site, Depends(_authorised)]
WaitS = Annotated[float, Query(ge=0, le=50, description="answer at the latest after so many seconds")]
router = APIRouter()


@router.get("/healthz")
def healthz(site: Annotated[Site, Depends(_site)]) -> dict[str, str]:
    """Whether the agent runs. Not whether the coordinator answers: restarting the agent would not help that."""
    site.context.journal.current()
    return {"status": "ok"}


@router.get("/status")
def status(site: SiteDep) -> SiteStatus:
    context = site.context
    row, box, node = context.journal.current(), context.mailbox, context.identity.node
    last_s = None if box.contact_at_s is None else context.clock.monotonic() - box.contact_at_s
    return SiteStatus(
        node_id=node.node_id,
        alliance=node.alliance,
        agent_version=AGENT_VERSION,
        boot_number=site.boot_number,
        phase=row.phase,
        since=row.since,
        run_id=row.facts.run_id if row.facts else None,
        round_number=row.facts.round_number if row.facts else None,
        explanation=explain(row, box),
        progress=box.progress,
        paused_by_site=box.paused,
        attempt=row.attempt,
        retry_in_s=retry_in_s(row, context.clock),
        failure_code=row.failure.code if row.failure else None,
        coordinator_reachable=box.contact_at_s is not None and box.contact_failure is None,
        coordinator_last_answer_s=last_s,
        coordinator_failure=box.contact_failure.sentence if box.contact_failure else None,
        trainer_pid=context.trainer_pid,
        egress_head=context.ledger.head(),
        held_keys=tuple(
            HeldKey(
                name=one.name, known=fingerprint(one.known), offered=fingerprint(one.offered), sentence=one.sentence
            )
            for one in site.held()
        ),
        peer_keys=tuple(
            PeerKey(node_id=one.node_id, key=fingerprint(one.key), since=one.since, how=one.how)
            for one in context.peers.known()
        ),
        rotation=box.rotation,
    )


@router.get("/runs")
def list_runs(site: SiteDep) -> list[RunSummary]:
    """Invitations to answer, and runs answered before."""
    desired = site.context.mailbox.desired
    for invitation in desired.invitations if desired else ():
        site.consents.invite(invitation.run_id, invitation.config.task.task_id)
    return [summarise(consent, site.config_of(consent.run_id)) for consent in site.consents.all()]


@router.get("/runs/{run_id}")
def show_run(site: SiteDep, run_id: str) -> RunSummary:
    return site.summary(run_id)


@router.post("/runs/{run_id}/accept")
def accept(site: SiteDep, run_id: str, wait_s: WaitS = 0.0) -> RunSummary:
    """The admin's yes. Done when `told`; `problem` says what stands in the way."""
    summary = site.summary(run_id)
    if summary.counts is None and summary.task is not None:
        read_binding(site.context.settings, summary.task.task_id)  # raises what to do
    return _answer(site, summary, Answer.ACCEPT, wait_s)


@router.post("/runs/{run_id}/withdraw")
def withdraw(site: SiteDep, run_id: str, wait_s: WaitS = 0.0) -> RunSummary:
    """The admin's no, at any time: the run ends here, whatever phase it is in."""
    return _answer(site, site.summary(run_id), Answer.WITHDRAW, wait_s)


def _answer(site: Site, summary: RunSummary, answer: Answer, wait_s: float) -> RunSummary:
    context, run_id = site.context, summary.run_id
    if not (summary.answer is answer and summary.told):
        site.consents.answer(run_id, answer)
        context.mailbox.nudge()

    def settled() -> bool:
        now = site.consents.get(run_id)
        return context.mailbox.stopping or now is None or now.told or now.problem is not None

    pause(context.mailbox, context.clock, wait_s, settled)
    return site.summary(run_id)


@router.post("/pause")
def pause_training(site: SiteDep) -> SiteStatus:
    """Training stops at its next step, with a snapshot; transfers and fusions finish."""
    return _set_paused(site, True)


@router.post("/resume")
def resume_training(site: SiteDep) -> SiteStatus:
    return _set_paused(site, False)


def _set_paused(site: Site, paused: bool) -> SiteStatus:
    site.context.journal.set_paused(paused)
    with site.context.mailbox.change():
        site.context.mailbox.paused = paused
    return status(site)


@router.post("/retry")
def retry(site: SiteDep) -> SiteStatus:
    """A failed phase is tried again, or a waiting retry at once."""
    with site.context.mailbox.change():
        site.context.mailbox.retry_requested = True
    pause(site.context.mailbox, site.context.clock, 5.0, lambda: not site.context.mailbox.retry_requested)
    return status(site)


class RotateWish(Message):
    ssh: bool = True
    signing: bool = True


@router.post("/rotate")
def rotate(site: SiteDep, wish: RotateWish, wait_s: WaitS = 0.0) -> SiteStatus:
    """Make new keys and a new token here and put them in use; the old ones work until the alliance has the new."""
    context = site.context
    rotation.prepare(context.settings, context.identity, ssh=wish.ssh, signing=wish.signing)
    with context.mailbox.change():
        context.mailbox.rotation = "New keys are ready; the coordinator is being told."
    pause(context.mailbox, context.clock, wait_s, lambda: context.mailbox.rotation is None)
    return status(site)


class TrustWish(Message):
    """`fingerprint`: of the key the admin was shown, so that no other is meant."""

    name: str
    fingerprint: str


@router.post("/trust")
def trust(site: SiteDep, wish: TrustWish) -> SiteStatus:
    """The admin's yes to a key that is held."""
    context = site.context
    held = next((one for one in site.held() if one.name == wish.name), None)
    if held is None or fingerprint(held.offered) != wish.fingerprint:
        raise NothingHeldError(name=wish.name)
    if held.name != HUB:
        context.peers.trust(held)
    elif (hub := context.peers.offered_hub()) is not None:
        write_node_file(context.settings.workdir, context.identity.node.model_copy(update={"hub": hub}))
        context.identity.take(load_identity(context.settings))
    logger.warning("the admin trusts a changed key", name=held.name, key=wish.fingerprint)
    with context.mailbox.change():
        context.mailbox.retry_requested = held.name == HUB or context.mailbox.retry_requested
    return status(site)


@router.get("/bindings")
def bindings(site: SiteDep) -> list[BindingFile]:
    return list(list_bindings(site.context.settings))


@router.post("/bindings")
def bind(site: SiteDep, file: BindingFile) -> BindingFile:
    """Say where this site's images of a task are, and which of its classes mean what."""
    write_binding(site.context.settings, file)
    site.consents.rebound(file.binding.task_id)
    site.context.mailbox.nudge()
    return file


@router.get("/egress")
def egress(site: SiteDep) -> EgressState:
    """The whole ledger, checked now."""
    found = verify(site.context.journal)
    return EgressState(num_entries=found.num_entries, num_bytes=found.num_bytes, head=found.head)


def create_site_app(site: Site) -> FastAPI:
    app = FastAPI(title="HeteroSync site API", version=AGENT_VERSION, openapi_url=None)
    app.state.site = site
    app.include_router(router)
    answer_with_problems(app)
    return app
