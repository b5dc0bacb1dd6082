"""The daemon's side of the pipe, against the child without torch."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.retry import FailureKind
from node_agent.errors import Interrupted, TrainerDiedError, TrainerFailedError, TrainerStalledError
from node_agent.mailbox import Mailbox
from node_agent.trainer.messages import (
    Describe,
    Described,
    Options,
    Prepare,
    Prepared,
    SiteSource,
    Trained,
    TrainRound,
    Work,
)
from node_agent.trainer.parent import Trainer
from tests.node_agent.alliance import make_config
from tests.node_agent.helpers import FAKE_TRAINER

CONFIG = make_config()


def always() -> bool:
    return True


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.hold, self.die = folder, folder / "hold", folder / "die"
        self.mailbox = Mailbox()
        self.trainers: list[Trainer] = []

    def trainer(self, *options: str) -> Trainer:
        command = (sys.executable, "-I", "-S", str(FAKE_TRAINER), "--hold", str(self.hold), "--die", str(self.die))
        made = Trainer((*command, *options), self.folder / "run", self.mailbox, SystemClock())
        self.trainers.append(made)
        return made

    @property
    def workspace(self) -> Path:
        return self.folder / "run" / "round-0001"

    def request(self) -> TrainRound:
        start = self.folder / "start.safetensors"
        if not start.exists():
            import numpy as np

            from hsl_model.checkpoint import write_tensors

            write_tensors(start, {"weight": np.zeros(4, np.float32), "counter": np.array(0)})
        work = Work(
            run_id="run-1",
            node_id="hospital-a",
            round_number=1,
            config=CONFIG,
            site=self.source(),
            start=(start,),
            options=Options(),
        )
        return TrainRound(work=work, workspace=self.workspace)

    def source(self) -> SiteSource:
        return SiteSource(binding={}, sat_path=None, task=CONFIG.task, sat_digest=None, cache=self.folder / "cache")

    def train(self, trainer: Trainer, **given: Any) -> Trained:
        return trainer.ask(self.request(), Trained, **{"keep_going": always, **given})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for trainer in made.trainers:
        trainer.close()


def test_one_child_answers_one_request_after_the_other(bench: Bench) -> None:
    trainer = bench.trainer()
    assert trainer.pid is None
    first = bench.train(trainer)
    pid = trainer.pid
    assert first.num_cases == 10
    assert trainer.ask(Describe(config=CONFIG), Described, keep_going=always).shared[0].name == "counter"
    assert trainer.pid == pid


def test_progress_arrives_while_it_works(bench: Bench) -> None:
    seen: list[tuple[int, int]] = []
    bench.train(bench.trainer(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2)]


def test_a_changed_mind_interrupts_training_with_a_snapshot(bench: Bench) -> None:
    bench.hold.touch()
    trainer = bench.trainer()
    minds = iter([True, False])
    with pytest.raises(Interrupted):
        bench.train(trainer, keep_going=lambda: next(minds, False), progress=lambda *_: bench.mailbox.nudge())
    assert (bench.workspace / "snapshot.json").exists()
    pid = trainer.pid
    bench.hold.unlink()
    assert bench.train(trainer).num_cases == 10
    assert trainer.pid == pid


def test_a_dead_child_is_reported_and_the_next_request_has_a_new_one(bench: Bench) -> None:
    bench.die.touch()
    trainer = bench.trainer()
    with pytest.raises(TrainerDiedError) as caught:
        bench.train(trainer)
    assert caught.value.data["status"] == 9
    assert trainer.pid is None
    assert bench.train(trainer).num_cases == 10


def test_a_child_without_progress_is_ended(bench: Bench) -> None:
    bench.hold.touch()
    trainer = bench.trainer()
    with pytest.raises(TrainerStalledError):
        bench.train(trainer, stall_s=0.2)
    assert trainer.pid is None
    bench.hold.unlink()
    assert bench.train(trainer, stall_s=20.0).num_cases == 10


def test_the_childs_own_error_leaves_it_alive(bench: Bench) -> None:
    trainer = bench.trainer("--fail", "class_missing")
    with pytest.raises(TrainerFailedError) as caught:
        trainer.ask(Prepare(site=bench.source()), Prepared, keep_going=always)
    assert (caught.value.reported_code, caught.value.kind) == ("class_missing", FailureKind.REJECTED)
    assert trainer.pid is not None


def test_an_answer_to_another_question_is_a_mistake_not_a_result(bench: Bench) -> None:
    with pytest.raises(TrainerFailedError) as caught:
        bench.trainer().ask(Describe(config=CONFIG), Prepared, keep_going=always)
    assert caught.value.kind is FailureKind.BUG


def test_closing_the_pipe_ends_the_child_with_a_snapshot(bench: Bench) -> None:
    bench.hold.touch()
    trainer = bench.trainer()
    minds = iter([True, False])

    class Gone(BaseException):
        pass

    def die(done: int, total: int) -> None:
        raise Gone  # the daemon is taken down while the child works

    with pytest.raises(Gone):
        bench.train(trainer, keep_going=lambda: next(minds, True), progress=die)
    assert trainer.pid is not None
    child = psutil.Process(trainer.pid)
    trainer.close()
    assert not child.is_running()
    assert (bench.workspace / "snapshot.json").exists()


def test_a_command_that_cannot_start_is_an_error_of_the_system(tmp_path: Path) -> None:
    trainer = Trainer(("/no/such/program",), tmp_path / "run", Mailbox(), SystemClock())
    with pytest.raises(FileNotFoundError):
        trainer.ask(Describe(config=CONFIG), Described, keep_going=always)
