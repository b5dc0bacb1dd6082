"""What a run declares: everything that decides its result, and nothing a site may choose for itself."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hsl_model.protocol.errors import ConfigError
from hsl_model.protocol.methods import OptionValue, checked_options, method_facts
from hsl_model.protocol.paths import NODE_ID_PATTERN, SHA256_PATTERN
from hsl_model.protocol.states import Fused

MAX_MEMBERS_ALL_FUSE = 8  # traffic per node grows with the members while all of them fuse
FUSERS_OF_MANY = 2


class Message(BaseModel):
    """Frozen, no unknown keys, no NaN or infinity: the base of everything that crosses a boundary."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


NodeId = Annotated[str, Field(pattern=NODE_ID_PATTERN)]
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]


class TaskConfig(Message):
    """The primary task by name. A site maps its own classes to these two; never by index."""

    task_id: str = Field(min_length=1, max_length=64)
    positive_class: str = Field(min_length=1, max_length=64)
    negative_class: str = Field(min_length=1, max_length=64)
    modality: str = Field(min_length=1, max_length=64, description="e.g. radiograph, ultrasound")
    channels: Literal[1, 3] = 1
    height: int = Field(default=224, ge=16, le=1024, description="pixels")
    width: int = Field(default=224, ge=16, le=1024, description="pixels")
    orientation: Literal["as_stored", "upright"] = "as_stored"

    @model_validator(mode="after")
    def _two_classes(self) -> Self:
        if self.positive_class == self.negative_class:
            raise ValueError("positive_class and negative_class must differ")
        return self


class MethodConfig(Message):
    name: str = "hsl"
    options: dict[str, OptionValue] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        try:
            options = checked_options(str(given.get("name", "hsl")), given.get("options") or {})
        except ConfigError as error:
            raise ValueError(error.sentence()) from error
        return {**given, "options": options}

    @property
    def views_of(self) -> Literal["sat", "own"] | None:
        """Whose images each batch also shows twice, in the styles of two sites."""
        consist = self.options.get("consist", "none") if self.options.get("weight") else "none"
        return None if consist == "none" else "sat" if consist == "anchors" else "own"


Architecture = Literal["mmoe", "trunk", "plain", "twin", "relative"]


class NetworkConfig(Message):
    """The network. The defaults are the published MMoE (methods.md 2.1): 23,723,650 parameters with `resnet18`."""

    architecture: Architecture | None = Field(
        default=None,
        description="None: the method's own (hsl: mmoe; the others: plain, one encoder and one logit); twin: two "
        "encoders of the primary image and as many parameters as mmoe; relative: the head sees the cosines between an "
        "image's features and those of training.num_anchors SAT images",
    )
    encoder: Literal["resnet18", "resnet_small"] = "resnet18"
    encoders: Literal["separate", "shared"] = "separate"
    normalisation: Literal["batch", "group"] = "batch"
    embedding: Literal["softmax", "layernorm"] = "softmax"
    temperature: float = Field(default=3.0, gt=0)
    temperature_on: Literal["embedding", "gate"] = "embedding"
    mixture_scale: float = Field(default=1.0, gt=0, description="multiplies the joint embedding (methods.md H9)")
    num_experts: int = Field(default=12, ge=1, le=64)


class TrainingConfig(Message):
    """Equal for every node and method of a comparison. A site may only split a batch into micro-batches."""

    batch_size: int = Field(default=64, ge=2, le=4096)
    local_epochs: int = Field(default=5, ge=1, le=100, description="local epochs a round")
    fuse_every_steps: int | None = Field(
        default=None,
        ge=1,
        description="a round is this many steps instead of a local epoch; batches, epochs and the "
        "learning rate run on across rounds, so a run of equal length differs in nothing but how often it fuses",
    )
    images_per_epoch: int | None = Field(
        default=None, ge=2, description="None: max(training cases, SAT cases), as published; steps = ceil(this / batch)"
    )
    balanced_sampler: bool = True
    augment: bool = Field(default=True, description="rotation and flip")
    photometric: float = Field(
        default=0.0, ge=0, le=2, description="strength of photometric augmentation (hsl_model/photometric.py); 0: off"
    )
    intensity: Literal["given", "equalised", "anchors"] = Field(
        default="given",
        description="grey levels as stored; by each image's own ranks; or by the mean quantile curve of the SAT's "
        "images at those ranks. In training and scoring alike (hsl_model/intensity.py)",
    )
    added_images: Literal["none", "sat", "own"] = Field(
        default="none",
        description="as many images again in each batch of a network with one input: of the SAT, which must then be of "
        "the run's task (sat_task_id), or more of the site's own",
    )
    fixed_head: bool = Field(
        default=False,
        description="the head keeps its initial values, the same everywhere, and encoders learn towards it",
    )
    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    schedule: Literal["cosine", "cosine_restarts", "constant"] = "cosine"
    schedule_period_epochs: int = Field(default=10, ge=1)
    learning_rate_floor: float = Field(default=0.1, ge=0, le=1, description="share of learning_rate")
    share_epoch: Literal["best", "last"] = "best"
    mixed_precision: bool = Field(default=True, description="on GPUs; on CPU training is float32")
    num_anchors: int = Field(
        default=16,
        ge=2,
        le=256,
        description="fixed SAT images: mmoe scores a single image beside them, relative trains and scores beside them",
    )

    @model_validator(mode="after")
    def _one_length_of_a_round(self) -> Self:
        if self.fuse_every_steps is not None and self.local_epochs != 1:
            raise ValueError("fuse_every_steps says how long a round is: set local_epochs to 1 beside it")
        return self

    def steps_a_round(self, steps_per_epoch: int) -> int:
        return self.fuse_every_steps or self.local_epochs * steps_per_epoch


class ConvergenceConfig(Message):
    """Stop after `patience` fusions in a row whose mean validation AUC improves by less than `min_improvement`."""

    enabled: bool = True
    patience: int = Field(default=3, ge=1)
    min_improvement: float = Field(default=0.005, ge=0)
    min_rounds: int = Field(default=6, ge=1)


class QuorumConfig(Message):
    """What a deadline may freeze without: never fewer nodes or cases, never without a required node."""

    min_nodes: int = Field(default=2, ge=1)
    min_cases: int = Field(default=0, ge=0, description="training cases summed over the plan")
    required_nodes: tuple[NodeId, ...] = ()


class InitialWeights(Message):
    """Round 0: built from `seed` by the first member, or the published file with this digest."""

    seed: int | None = Field(default=0, ge=0, lt=2**63)
    file_sha256: Sha256 | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.seed is None) == (self.file_sha256 is None):
            raise ValueError("give exactly one of seed and file_sha256 (set seed to null to start from a file)")
        return self


class RunConfig(Message):
    name: str = Field(min_length=1, max_length=120)
    task: TaskConfig
    nodes: tuple[NodeId, ...] = Field(min_length=1, description="invited; each becomes a member when its site accepts")
    method: MethodConfig = Field(default_factory=lambda: MethodConfig(name="hsl"))
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    seed: int = Field(default=0, ge=0, lt=2**63, description="keys every random stream of the training")
    num_rounds: int = Field(default=20, ge=1, le=100_000)
    convergence: ConvergenceConfig = Field(default_factory=ConvergenceConfig)
    quorum: QuorumConfig = Field(default_factory=QuorumConfig)
    round_deadline_s: float | None = Field(default=None, gt=0, description="None: wait for every member")
    report_deadline_s: float | None = Field(default=None, gt=0, description="None: wait for every member's report")
    fusers: Literal["all"] | Annotated[int, Field(ge=2, le=1000)] | None = Field(
        default=None,
        description="all: every member fuses; a number: that many do and the others fetch their file (at least 2, so "
        "that one can be told by the other); None: all up to eight members, 2 above",
    )
    initial: InitialWeights = Field(default_factory=InitialWeights)
    sat_digest: Sha256 | None = None
    sat_task_id: str | None = Field(
        default=None, max_length=64, description="the task whose classes the SAT's labels are; None: one of its own"
    )

    @field_validator("nodes")
    @classmethod
    def _sorted_unique(cls, nodes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(nodes)) != len(nodes):
            raise ValueError("a node is named twice")
        return tuple(sorted(nodes))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if strangers := sorted(set(self.quorum.required_nodes) - set(self.nodes)):
            raise ValueError(f"required_nodes not among nodes: {', '.join(strangers)}")
        if self.quorum.min_nodes > len(self.nodes):
            raise ValueError(f"quorum.min_nodes is {self.quorum.min_nodes}, but only {len(self.nodes)} nodes are named")
        if self.uses_sat and self.sat_digest is None:
            option = "added_images" if self.shows_sat else "intensity anchors"
            what = f"the {self.architecture} network" if self.has_anchors else f"training.{option}"
            what = "consistency on anchors" if self.method.views_of == "sat" else what
            raise ValueError(f"{what} needs a shared anchor task: give sat_digest (`hsl data sat` prints it)")
        self._check_added_images()
        self._check_views()
        if self.architecture == "relative" and self.network.normalisation == "batch":
            raise ValueError(
                "the relative network sees anchors and primary images with one encoder, and anchors may not touch the "
                "batch statistics with which primary images are scored: set network.normalisation to group"
            )
        if self.method.name == "hsl" and self.architecture != "mmoe":
            raise ValueError(
                "method hsl needs network.architecture mmoe; for No-AL use method swarm with trunk or plain"
            )
        if isinstance(self.fusers, int) and method_facts(self.method.name).fused is not Fused.COMMON:
            raise ValueError(
                f"method {self.method.name} leaves every node with a model of its own, so nobody can fuse for another: "
                "leave fusers out, or set it to all"
            )
        return self

    def num_fusers(self, num_members: int) -> int | None:
        """How many of a round's members fuse for all; None: every one does.

        With the audit, which fuses as well, k of k + 1 members are all of them.
        """
        if self.fusers == "all" or method_facts(self.method.name).fused is not Fused.COMMON:
            return None
        wanted = self.fusers or (FUSERS_OF_MANY if num_members > MAX_MEMBERS_ALL_FUSE else num_members)
        return wanted if wanted + 1 < num_members else None

    def _check_added_images(self) -> None:
        added = self.training.added_images
        if added != "none" and self.has_anchors:
            raise ValueError(
                f"the {self.architecture} network has an input for the SAT: leave training.added_images at none"
            )
        if added == "sat" and self.sat_task_id != self.task.task_id:
            raise ValueError(
                f"SAT images can be trained on as images of task {self.task.task_id} only where they are: set "
                f"sat_task_id to {self.task.task_id} if its labels mean the same"
            )
        if added == "sat" and self.network.normalisation == "batch":
            raise ValueError(
                "SAT images may not touch the batch statistics with which primary images are scored: set "
                "network.normalisation to group"
            )

    def _check_views(self) -> None:
        if self.method.views_of is None:
            return
        if self.architecture != "plain" or self.training.added_images != "none":
            raise ValueError(
                f"consistency of method {self.method.name} is that of one encoder, beside primary images alone: set "
                "network.architecture to plain and training.added_images to none"
            )
        if self.training.intensity != "given":
            raise ValueError("styles are those of grey levels as they are stored: set training.intensity to given")
        if self.network.normalisation == "batch":
            raise ValueError(
                "images shown for consistency may not touch the batch statistics with which primary images are scored: "
                "set network.normalisation to group"
            )

    @property
    def shows_sat(self) -> bool:
        """Whether training looks at the SAT at all."""
        return self.has_anchors or "sat" in (self.training.added_images, self.method.views_of)

    @property
    def has_anchors(self) -> bool:
        """Whether an image is scored beside fixed images of the SAT."""
        return self.architecture in ("mmoe", "relative")

    @property
    def uses_sat(self) -> bool:
        """Whether every site needs the SAT's bundle, to show its images or for their grey levels alone."""
        return self.shows_sat or self.training.intensity == "anchors"

    @property
    def architecture(self) -> Architecture:
        return self.network.architecture or method_facts(self.method.name).default_architecture
