"""A whole run in one process, by the coordinator's rules: the simulation of the studies and the daemon's yardstick.

round 0      the initial weights, a plan of one entry with weight 1
round r      every node trains from what it holds after r - 1; plan over all nodes, sorted; every node fuses, validates
until        protocol/convergence.py says stop

<workdir>/run.json                          the run these files belong to
<workdir>/rounds/round-0003.json            a finished round; a new call continues after the last one
<workdir>/nodes/<node>/round-0003/          shared, private, fused tensors; kept: round 0, the newest, the best so far
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Protocol

from hsl_model.averaging import inputs_digest
from hsl_model.checkpoint import sha256_file
from hsl_model.data import SiteData
from hsl_model.durable import write_bytes
from hsl_model.engine import EngineOptions, RoundResult, RoundSpec, fuse_own, train_round, validate, write_initial
from hsl_model.protocol.config import Message, NodeId, RunConfig, Sha256
from hsl_model.protocol.convergence import best_round, should_stop
from hsl_model.protocol.errors import ConfigError, HslError
from hsl_model.protocol.manifest import SiteStyle, UpdateMetrics, canonical_json
from hsl_model.protocol.messages import FusionPlan, PlanEntry, ValidationMetrics
from hsl_model.protocol.methods import method_facts
from hsl_model.protocol.states import Fused
from hsl_model.protocol.weights import plan_weights

RUN_ID = "in-process"


class DigestDisagreementError(HslError):
    code = "digest_disagreement"
    http_status = 500
    title = "Nodes fused different models"
    template = "In round {round_number} the fused digests differ: {digests}. Fusion must give the same bits everywhere."


class NodeRound(Message):
    """One node's part of a round. `update_sha256` is None for a node that published nothing (round 0)."""

    update_sha256: Sha256 | None
    metrics: UpdateMetrics | None
    fused_digest: Sha256
    validation: ValidationMetrics


class FederationRound(Message):
    round_number: int
    fused_digest: Sha256
    mean_auc: float | None
    nodes: dict[NodeId, NodeRound]


@dataclass(frozen=True)
class NodeWork:
    """One node's part of a round: what it trains on, from which files, and where its result goes."""

    spec: RoundSpec
    data: SiteData
    start: Sequence[Path]
    workspace: Path


Train = Callable[[Sequence[NodeWork], EngineOptions], dict[str, RoundResult]]
"""Trains all nodes of a round, sorted by name; each node's result, under its name."""


def never() -> bool:
    return False


class TrainUntil(Protocol):
    """A `Train` that may be stopped: it then raises `Interrupted`, with a snapshot."""

    def __call__(
        self, nodes: Sequence[NodeWork], options: EngineOptions, should_stop: Callable[[], bool] = never
    ) -> dict[str, RoundResult]: ...


def train_apart(
    nodes: Sequence[NodeWork], options: EngineOptions, should_stop: Callable[[], bool] = never
) -> dict[str, RoundResult]:
    """Every node for itself, as hospitals do. Raises what `train_round` raises."""
    return {
        node.spec.node_id: train_round(
            node.spec,
            node.data,
            node.start,
            node.workspace,
            options,
            should_stop=should_stop,
            progress=lambda _done, _total: None,
        )
        for node in nodes
    }


def run_federation(
    config: RunConfig,
    sites: Mapping[str, SiteData],
    workdir: Path,
    options: EngineOptions,
    initial: Path | None = None,
    train: Train = train_apart,
) -> list[FederationRound]:
    """Train until convergence or the round limit. `initial` is the file of `config.initial.file_sha256`, if it has one.

    Raises `ConfigError` if `workdir` holds another run, and what the engine raises.
    """
    federation = _Federation(config, sites, workdir, options, train)
    rounds = federation.recorded()
    if not rounds:
        rounds.append(federation.initial_round(initial))
    while not should_stop([done.mean_auc for done in rounds], config.convergence, config.num_rounds)[0]:
        rounds.append(federation.next_round(len(rounds)))
        federation.prune([done.mean_auc for done in rounds])
    return rounds


def held_files(workdir: Path, node_id: str, round_number: int) -> list[Path]:
    """The tensor files that make up what a node holds after a round, to be overlaid in order."""
    folder = _folder(workdir, node_id, round_number)
    files = [folder / "private.safetensors", folder / "fused.safetensors"]
    if round_number > 0:
        files.insert(0, _folder(workdir, node_id, 0) / "fused.safetensors")
    return [path for path in files if path.is_file()]


class _Federation:
    def __init__(
        self,
        config: RunConfig,
        sites: Mapping[str, SiteData],
        workdir: Path,
        options: EngineOptions,
        train: Train = train_apart,
    ) -> None:
        self._config, self._sites, self._workdir, self._options = config, sites, workdir, options
        self._train = train
        self._nodes = sorted(sites)
        self._facts = method_facts(config.method.name)
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "rounds").mkdir(exist_ok=True)
        run, identity = workdir / "run.json", canonical_json(config)
        if run.is_file() and run.read_bytes() != identity:
            raise ConfigError(reason=f"{workdir} holds another run; choose another folder, or delete it")
        write_bytes(run, identity)

    def recorded(self) -> list[FederationRound]:
        rounds: list[FederationRound] = []
        while (path := self._record(len(rounds))).is_file():
            rounds.append(FederationRound.model_validate_json(path.read_bytes()))
        return rounds

    def initial_round(self, given: Path | None) -> FederationRound:
        """Round 0: the first node publishes, everyone fuses the plan of that one update."""
        first = self._nodes[0]
        update = self._initial_update(given, _folder(self._workdir, first, 0))
        entry = PlanEntry(
            node_id=first,
            update_sha256=sha256_file(update),
            update_bytes=update.stat().st_size,
            manifest_sha256=sha256_file(update),
            weight=1.0,
            num_cases=0,
        )
        plan = FusionPlan(run_id=RUN_ID, round_number=0, version=1, entries=(entry,))
        return self._finish(plan, {first: update}, {})

    def next_round(self, round_number: int) -> FederationRound:
        styles = self._styles(round_number - 1)
        results = self._train([self._work(node, round_number, styles) for node in self._nodes], self._options)
        weights = plan_weights(self._facts.weighting, {node: result.num_cases for node, result in results.items()})
        entries = tuple(_entry(node, results[node], weights[node]) for node in self._nodes)
        plan = FusionPlan(run_id=RUN_ID, round_number=round_number, version=1, entries=entries)
        return self._finish(plan, {node: result.shared.path for node, result in results.items()}, results)

    def prune(self, mean_aucs: list[float | None]) -> None:
        """Forget the models that nobody will ask for again."""
        kept = {0, len(mean_aucs) - 1, best_round(mean_aucs)}
        for node in self._nodes:
            for round_number in range(len(mean_aucs)):
                if round_number not in kept:
                    shutil.rmtree(_folder(self._workdir, node, round_number), ignore_errors=True)

    def _styles(self, round_number: int) -> dict[str, SiteStyle]:
        """What the updates of a finished round told; nothing in round 0, or where the method shares none."""
        if round_number == 0 or not self._facts.shares_style:
            return {}
        done = FederationRound.model_validate_json(self._record(round_number).read_bytes())
        told = {node: part.metrics.style for node, part in done.nodes.items() if part.metrics is not None}
        return {node: style for node, style in told.items() if style is not None}

    def _work(self, node: str, round_number: int, styles: Mapping[str, SiteStyle]) -> NodeWork:
        return NodeWork(
            spec=replace(self._spec(node, round_number), styles=styles),
            data=self._sites[node],
            start=held_files(self._workdir, node, round_number - 1),
            workspace=_folder(self._workdir, node, round_number),
        )

    def _finish(
        self, plan: FusionPlan, files: Mapping[str, Path], results: Mapping[str, RoundResult]
    ) -> FederationRound:
        """Every node fuses and validates; the round is recorded once all agree."""
        nodes: dict[str, NodeRound] = {}
        for node in self._nodes:
            digest = self._fuse(node, plan, files)
            held = held_files(self._workdir, node, plan.round_number)
            result = results.get(node)
            nodes[node] = NodeRound(
                update_sha256=None if result is None else result.shared.sha256,
                metrics=None if result is None else result.metrics,
                fused_digest=digest,
                validation=validate(self._spec(node, plan.round_number), self._sites[node], held, self._options),
            )
        digests = {node: done.fused_digest for node, done in nodes.items()}
        if len(set(digests.values())) > 1:
            raise DigestDisagreementError(round_number=plan.round_number, digests=digests)
        aucs = [done.validation.auc for done in nodes.values() if done.validation.auc is not None]
        finished = FederationRound(
            round_number=plan.round_number,
            fused_digest=digests[self._nodes[0]],
            mean_auc=fmean(aucs) if aucs else None,
            nodes=nodes,
        )
        write_bytes(self._record(plan.round_number), canonical_json(finished))
        return finished

    def _fuse(self, node: str, plan: FusionPlan, files: Mapping[str, Path]) -> str:
        """Write what the node holds after fusion; the digest that the nodes compare."""
        output = _folder(self._workdir, node, plan.round_number) / "fused.safetensors"
        output.parent.mkdir(parents=True, exist_ok=True)
        is_initial = plan.round_number == 0  # the initial weights are common whatever the method
        if self._facts.fused is Fused.NONE and not is_initial:
            return inputs_digest(plan.entries)
        fused = fuse_own(self._spec(node, plan.round_number), plan, files, output)
        return fused.fused_digest if is_initial or self._facts.fused is Fused.COMMON else inputs_digest(plan.entries)

    def _initial_update(self, given: Path | None, folder: Path) -> Path:
        expected = self._config.initial.file_sha256
        if expected is None:
            return write_initial(self._config, folder).shared.path
        if given is None or sha256_file(given) != expected:
            raise ConfigError(reason=f"this run starts from the file with SHA-256 {expected}; give that file")
        return given

    def _spec(self, node: str, round_number: int) -> RoundSpec:
        return RoundSpec(run_id=RUN_ID, node_id=node, round_number=round_number, config=self._config)

    def _record(self, round_number: int) -> Path:
        return self._workdir / "rounds" / f"round-{round_number:04d}.json"


def _folder(workdir: Path, node_id: str, round_number: int) -> Path:
    return workdir / "nodes" / node_id / f"round-{round_number:04d}"


def _entry(node_id: str, result: RoundResult, weight: float) -> PlanEntry:
    return PlanEntry(
        node_id=node_id,
        update_sha256=result.shared.sha256,
        update_bytes=result.shared.num_bytes,
        manifest_sha256=result.shared.sha256,  # no manifests in one process: nobody has to be believed
        weight=weight,
        num_cases=result.num_cases,
    )
