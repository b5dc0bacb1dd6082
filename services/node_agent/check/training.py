"""Can this machine train: one real batch, in the training child, of the run's own network and size."""

from pathlib import Path

from hsl_model.protocol.clock import Clock
from hsl_model.protocol.config import RunConfig
from hsl_model.protocol.errors import HslError
from node_agent.check.finding import Concern, Finding, Outcome, Part
from node_agent.context import engine_options
from node_agent.mailbox import Mailbox
from node_agent.settings import NodeSettings
from node_agent.trainer.messages import BatchTried, TryBatch
from node_agent.trainer.parent import Trainer


def check_training(
    settings: NodeSettings, config: RunConfig, folder: Path, clock: Clock
) -> tuple[Finding, BatchTried | None]:
    """`folder` is the check's own. Bounded by progress: a step longer than the agent would wait is a failure."""
    trainer = Trainer(settings.trainer_command, folder, Mailbox(), clock)
    request = TryBatch(config=config, options=engine_options(settings), folder=folder)
    try:
        tried = trainer.ask(request, BatchTried, keep_going=lambda: True, stall_s=settings.training_stall_s)
    except HslError as error:
        size = f"batch {config.training.batch_size}, {config.task.height} x {config.task.width} pixels"
        sentence = f"{error.sentence()} It was one batch on {settings.device} ({size})."
        return _found(Outcome.FAILED, sentence), None
    finally:
        trainer.close()
    sentence = (
        f"A batch of {config.training.batch_size} takes {tried.batch_s:.2g} s on {tried.device_name} and "
        f"{tried.peak_bytes / 1e9:.1f} GB of memory ({config.network.encoder}, {config.task.height} x "
        f"{config.task.width} pixels)."
    )
    measured = {
        "batch_s": tried.batch_s,
        "peak_bytes": float(tried.peak_bytes),
        "model_bytes": float(tried.model_bytes),
    }
    return _found(Outcome.OK, sentence, **measured), tried


def _found(outcome: Outcome, sentence: str, **measured: float) -> Finding:
    return Finding(part=Part.HERE, concern=Concern.TRAINING, outcome=outcome, sentence=sentence, measured=measured)
