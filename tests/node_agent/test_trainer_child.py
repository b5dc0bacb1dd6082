"""The real training child, in a process of its own, on phantoms and the smallest network."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from hsl_data.phantoms import write_phantom_sat, write_phantom_sites
from hsl_data.site import SiteBinding, prepare_site
from hsl_model.checkpoint import TensorFile, sha256_file
from hsl_model.engine import EngineOptions, RoundSpec, train_round, write_initial
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.config import (
    InitialWeights,
    MethodConfig,
    NetworkConfig,
    QuorumConfig,
    RunConfig,
    TaskConfig,
    TrainingConfig,
)
from hsl_model.protocol.messages import FusionPlan, PlanEntry
from hsl_model.protocol.retry import FailureKind
from node_agent.errors import Interrupted, TrainerDiedError, TrainerFailedError
from node_agent.mailbox import Mailbox
from node_agent.trainer import messages as m
from node_agent.trainer.parent import Trainer

SIZE = 16


@dataclass
class Bench:
    folder: Path
    config: RunConfig
    site: m.SiteSource
    trainer: Trainer
    mailbox: Mailbox

    def work(self, *start: Path, config: RunConfig | None = None, round_number: int = 1) -> m.Work:
        return m.Work(
            run_id="run-1",
            node_id="hospital-a",
            round_number=round_number,
            config=config or self.config,
            site=self.site,
            start=start,
            options=m.Options(snapshot_every_steps=1),
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    (images,) = write_phantom_sites(folder, 1, cases_per_site=60, size=SIZE, seed=1)
    sat = write_phantom_sat(folder / "sat.safetensors", per_class=8, size=SIZE, seed=2)
    task = TaskConfig(
        task_id="fracture",
        positive_class="fractured",
        negative_class="intact",
        modality="radiograph",
        height=SIZE,
        width=SIZE,
    )
    config = RunConfig(
        name="tiny",
        task=task,
        nodes=("hospital-a",),
        network=NetworkConfig(encoder="resnet_small"),
        training=TrainingConfig(batch_size=8, local_epochs=2, images_per_epoch=16, num_anchors=4),
        quorum=QuorumConfig(min_nodes=1),
        sat_digest=sat.digest,
    )
    binding = SiteBinding(
        task_id="fracture", reader="npz", path=images, classes={"fractured": "fractured", "intact": "intact"}
    )
    site = m.SiteSource(
        binding=binding.model_dump(mode="json"),
        sat_path=sat.path,
        task=task,
        sat_digest=sat.digest,
        cache=folder / "cache",
    )
    mailbox = Mailbox()
    command = (sys.executable, "-m", "node_agent.trainer.child")
    trainer = Trainer(command, folder / "run", mailbox, SystemClock())
    yield Bench(folder, config, site, trainer, mailbox)
    trainer.close()


def always() -> bool:
    return True


@pytest.fixture(scope="module")
def initial(bench: Bench) -> Path:
    made = bench.trainer.ask(
        m.Initialise(config=bench.config, folder=bench.folder / "initial"), m.Trained, keep_going=always
    )
    assert (made.num_cases, made.metrics.shared_epoch, made.private) == (0, 0, None)
    assert made.shared.sha256 == sha256_file(made.shared.path)
    assert made.shared.sha256 == write_initial(bench.config, bench.folder / "again").shared.sha256
    return made.shared.path


def test_preparing_gives_counts_that_may_leave_and_lines_that_stay(bench: Bench) -> None:
    found = bench.trainer.ask(m.Prepare(site=bench.site), m.Prepared, keep_going=always)
    assert found.counts.training.positive > 0
    assert found.lines


def test_described_tensors_are_those_of_the_update(bench: Bench, initial: Path) -> None:
    described = bench.trainer.ask(m.Describe(config=bench.config), m.Described, keep_going=always)
    with TensorFile(initial) as file:
        assert file.specs == described.full
    assert set(described.shared) <= set(described.full)


def test_an_interrupted_round_goes_on_to_the_same_bits(bench: Bench, initial: Path) -> None:
    request = m.TrainRound(work=bench.work(initial), workspace=bench.folder / "interrupted")
    steps: list[int] = []
    with pytest.raises(Interrupted):
        bench.trainer.ask(
            request, m.Trained, keep_going=lambda: len(steps) < 1, progress=lambda done, _: steps.append(done)
        )
    assert (bench.folder / "interrupted" / "snapshot.json").exists()
    resumed = bench.trainer.ask(request, m.Trained, keep_going=always)
    again = bench.trainer.ask(request, m.Trained, keep_going=always)
    assert again == resumed
    assert resumed.num_cases > 0
    assert resumed.shared.sha256 == _undisturbed(bench, initial)


def test_a_killed_child_leaves_a_snapshot_that_the_next_one_continues(bench: Bench, initial: Path) -> None:
    workspace = bench.folder / "killed"
    request = m.TrainRound(work=bench.work(initial), workspace=workspace)

    def kill(done: int, total: int) -> None:
        if done >= 1 and bench.trainer.pid is not None:
            psutil.Process(bench.trainer.pid).kill()

    with pytest.raises(TrainerDiedError):
        bench.trainer.ask(request, m.Trained, keep_going=always, progress=kill)
    resumed = bench.trainer.ask(request, m.Trained, keep_going=always)
    assert resumed.shared.sha256 == _undisturbed(bench, initial)


def _undisturbed(bench: Bench, initial: Path) -> str:
    """The same round in this process, never disturbed."""
    binding = SiteBinding.model_validate(bench.site.binding)
    site = prepare_site(binding, bench.site.task, bench.site.sat_path, bench.site.sat_digest, bench.site.cache)
    result = train_round(
        RoundSpec("run-1", "hospital-a", 1, bench.config),
        site.data,
        (initial,),
        bench.folder / "undisturbed",
        EngineOptions(),
        should_stop=lambda: False,
        progress=lambda done, total: None,
    )
    return result.shared.sha256


def test_it_validates_and_predicts(bench: Bench, initial: Path) -> None:
    request = m.Validate(work=bench.work(initial))
    assert bench.trainer.ask(request, m.Validated, keep_going=always).metrics.num_cases > 0


def test_a_method_of_studies_is_refused(bench: Bench, initial: Path) -> None:
    """Alone with its own style a node would train another method under this one's name."""
    config = bench.config.model_copy(update={"method": MethodConfig(name="styled")})
    with pytest.raises(TrainerFailedError, match="method styled runs in studies only"):
        bench.trainer.ask(m.Validate(work=bench.work(initial, config=config)), m.Validated, keep_going=always)


def test_it_fuses_for_methods_with_a_fusion_of_their_own(bench: Bench) -> None:
    config = bench.config.model_copy(update={"method": MethodConfig(name="personalised")})
    made = [
        write_initial(config.model_copy(update={"initial": InitialWeights(seed=seed)}), bench.folder / f"own-{seed}")
        for seed in (0, 1)
    ]
    entries = tuple(
        PlanEntry(
            node_id=node,
            update_sha256=file.sha256,
            update_bytes=file.num_bytes,
            manifest_sha256="a" * 64,
            weight=0.5,
            num_cases=1,
        )
        for node, file in zip(("hospital-a", "hospital-b"), (one.shared for one in made), strict=True)
    )
    plan = FusionPlan(run_id="run-1", round_number=1, version=1, entries=entries)
    request = m.FuseOwn(
        work=bench.work(config=config),
        plan=plan,
        files={"hospital-a": made[0].shared.path, "hospital-b": made[1].shared.path},
        output=bench.folder / "mixture.safetensors",
    )
    fused = bench.trainer.ask(request, m.Fused, keep_going=always)
    assert fused.model.sha256 == sha256_file(bench.folder / "mixture.safetensors")


def test_bad_data_is_a_permanent_failure_with_the_sites_sentence(bench: Bench) -> None:
    wrong = {**bench.site.binding, "classes": {"fractured": "fractured"}, "ignored_classes": ["intact"]}
    site = bench.site.model_copy(update={"binding": wrong})
    with pytest.raises(TrainerFailedError) as caught:
        bench.trainer.ask(m.Prepare(site=site), m.Prepared, keep_going=always)
    assert (caught.value.kind, caught.value.reported_code) == (FailureKind.REJECTED, "class_mapping_invalid")
    assert "intact" in caught.value.sentence()


def test_an_unforeseen_error_says_no_foreign_text(bench: Bench) -> None:
    with pytest.raises(TrainerFailedError) as caught:
        bench.trainer.ask(
            m.Validate(work=bench.work(Path("/no/such/secret.safetensors"))), m.Validated, keep_going=always
        )
    assert "secret" not in caught.value.sentence()


def test_the_child_ends_when_its_parents_pipe_closes(bench: Bench) -> None:
    bench.trainer.ask(m.Prepare(site=bench.site), m.Prepared, keep_going=always)
    assert bench.trainer.pid is not None
    child = psutil.Process(bench.trainer.pid)
    bench.trainer.close()
    assert not child.is_running()
