"""One round at one node: a function per phase, `(context, facts) -> (next phase, facts)`.

    IDLE ──> TRAINING ──> CHECKPOINTING ──> UPLOADING ──> ANNOUNCING ──> WAITING     training.py, publishing.py
                               ^ round 0: the first member begins here      │
         (nothing to contribute: from IDLE straight to WAITING)             │ the plan is frozen (reconcile.py)
                                                                            v
    IDLE <── ADOPTING <── FUSING <── VERIFYING <──────────────────── DOWNLOADING     collecting.py, verifying.py,
                                        └── wrong bytes on our disk ──>              fusing.py

Each function is idempotent: the daemon writes what it returns in one transaction, and after a crash at any instant it
is called again with the facts of before. A function that has to wait for someone raises `NotYet`; one that is no longer
wanted raises `Interrupted`; any other error becomes `retry_at` or FAILED (`errors.failure_of`).
"""

from collections.abc import Callable, Mapping

from hsl_model.protocol.states import NodePhase
from node_agent.context import Context
from node_agent.facts import RoundFacts
from node_agent.phases.collecting import downloading, waiting
from node_agent.phases.fusing import adopting, fusing
from node_agent.phases.publishing import announcing, checkpointing, uploading
from node_agent.phases.training import training
from node_agent.phases.verifying import verifying

PhaseFunction = Callable[[Context, RoundFacts], tuple[NodePhase, RoundFacts | None]]

PHASES: Mapping[NodePhase, PhaseFunction] = {
    NodePhase.TRAINING: training,
    NodePhase.CHECKPOINTING: checkpointing,
    NodePhase.UPLOADING: uploading,
    NodePhase.ANNOUNCING: announcing,
    NodePhase.WAITING: waiting,
    NodePhase.DOWNLOADING: downloading,
    NodePhase.VERIFYING: verifying,
    NodePhase.FUSING: fusing,
    NodePhase.ADOPTING: adopting,
}
