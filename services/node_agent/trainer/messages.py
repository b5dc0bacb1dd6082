"""What daemon and training child say to each other: one JSON object a line, requests on stdin, replies on stdout.

Every request names all that it needs, so a child that was just started can serve any of them: the daemon never has to
tell a new child what the dead one knew. Each request is answered by zero or more `Progressed` and one final reply.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from hsl_model.protocol.config import Message, NodeId, RunConfig, Sha256, TaskConfig
from hsl_model.protocol.manifest import Fraction, RunId, TensorSpec, UpdateMetrics
from hsl_model.protocol.messages import FusionPlan, TruthCounts, ValidationMetrics
from hsl_model.protocol.retry import FailureKind


class SiteSource(Message):
    """Where the site's data for a task are, and what they have to be."""

    binding: dict[str, Any] = Field(description="a SiteBinding of hsl_data, as the site's admin wrote it")
    sat_path: Path | None
    task: TaskConfig
    sat_digest: Sha256 | None
    cache: Path


class Options(Message):
    """What the site chooses: `hsl_model.round_work.EngineOptions`."""

    device: str = "cpu"
    num_threads: int = 1
    snapshot_every_steps: int = 50
    micro_batch_size: int | None = None
    channels_last: bool = False
    compiled: bool = False
    cache_on_device: bool = False


class Work(Message):
    """Which round of which run, on what data, from which model (later files win)."""

    run_id: RunId
    node_id: NodeId
    round_number: int
    config: RunConfig
    site: SiteSource
    start: tuple[Path, ...]
    options: Options


class MadeFile(Message):
    path: Path
    sha256: Sha256
    num_bytes: int


# --- requests --------------------------------------------------------------------------------------------------------


class Prepare(Message):
    kind: Literal["prepare"] = "prepare"
    site: SiteSource


class Describe(Message):
    """Which tensors an update of this run has, and a whole model."""

    kind: Literal["describe"] = "describe"
    config: RunConfig


class Initialise(Message):
    kind: Literal["initialise"] = "initialise"
    config: RunConfig
    folder: Path


class TrainRound(Message):
    kind: Literal["train_round"] = "train_round"
    work: Work
    workspace: Path


class Validate(Message):
    kind: Literal["validate"] = "validate"
    work: Work


class FuseOwn(Message):
    kind: Literal["fuse_own"] = "fuse_own"
    work: Work
    plan: FusionPlan
    files: dict[NodeId, Path]
    output: Path


class Predict(Message):
    kind: Literal["predict"] = "predict"
    work: Work
    images: tuple[Path, ...]


class TryBatch(Message):
    """`hsl node check`: train one batch of made-up images. `folder` is for its files; the asker removes it."""

    kind: Literal["try_batch"] = "try_batch"
    config: RunConfig
    options: Options
    folder: Path


class Interrupt(Message):
    """Stop the training under way at its next step, with a snapshot. Not answered by itself."""

    kind: Literal["interrupt"] = "interrupt"


Request = Annotated[
    Prepare | Describe | Initialise | TrainRound | Validate | FuseOwn | Predict | TryBatch | Interrupt,
    Field(discriminator="kind"),
]


# --- replies ---------------------------------------------------------------------------------------------------------


class Progressed(Message):
    kind: Literal["progressed"] = "progressed"
    done: int
    total: int


class Prepared(Message):
    """The truth report. `lines` are for the site's admin and never leave; `counts` may."""

    kind: Literal["prepared"] = "prepared"
    counts: TruthCounts
    lines: tuple[str, ...]


class Described(Message):
    kind: Literal["described"] = "described"
    shared: tuple[TensorSpec, ...]
    full: tuple[TensorSpec, ...]


class Trained(Message):
    kind: Literal["trained"] = "trained"
    shared: MadeFile
    private: MadeFile | None
    metrics: UpdateMetrics
    num_cases: int


class Validated(Message):
    kind: Literal["validated"] = "validated"
    metrics: ValidationMetrics


class Fused(Message):
    kind: Literal["fused"] = "fused"
    model: MadeFile


class Predicted(Message):
    kind: Literal["predicted"] = "predicted"
    probabilities: tuple[Fraction, ...]


class BatchTried(Message):
    kind: Literal["batch_tried"] = "batch_tried"
    batch_s: float
    peak_bytes: int
    model_bytes: int
    device_name: str


class Stopped(Message):
    """The request was interrupted; a snapshot lies ready where there is one to take."""

    kind: Literal["stopped"] = "stopped"


class Failed(Message):
    kind: Literal["failed"] = "failed"
    failure_kind: FailureKind
    code: str
    sentence: str


FinalReply = Prepared | Described | Trained | Validated | Fused | Predicted | BatchTried | Stopped | Failed
Reply = Annotated[Progressed | FinalReply, Field(discriminator="kind")]

REQUEST: TypeAdapter[Request] = TypeAdapter(Request)
REPLY: TypeAdapter[Reply] = TypeAdapter(Reply)


def to_line(message: Message) -> bytes:
    return message.model_dump_json().encode() + b"\n"
