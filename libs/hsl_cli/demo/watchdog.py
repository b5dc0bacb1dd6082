"""What a demo must not wait for: a site that failed for good, and a run that was paused because digests differ.

A person would look into it; a demo nobody watches says so and ends. The same command tries again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from hsl_cli.errors import RefusedError
from hsl_cli.live import Picture
from hsl_model.protocol.clock import Clock
from hsl_model.protocol.states import NodePhase, RunStatus

PATIENCE_S = 20.0  # a FAILED phase goes on by itself when the desired state changes, e.g. with a newer plan
DISAGREEMENT = "digest_disagreement"


@dataclass
class Watchdog:
    clock: Clock
    show: Callable[[Picture], None]
    _failed_since: dict[str, float] = field(default_factory=dict)

    def __call__(self, picture: Picture) -> None:
        """Show the picture; raise `RefusedError` when it has become hopeless."""
        self.show(picture)
        run, now = picture.run, self.clock.monotonic()
        if run.status is RunStatus.PAUSED and run.reason == DISAGREEMENT:
            raise RefusedError(
                reason=f"Round {run.round_number}: the nodes fused different models. {run.waiting or ''}"
            )
        failed = {name for name, node in picture.nodes.items() if node.phase is NodePhase.FAILED}
        self._failed_since = {name: self._failed_since.get(name, now) for name in sorted(failed)}
        for name, since in self._failed_since.items():
            if now - since > PATIENCE_S:
                raise RefusedError(
                    reason=f"{name} failed in round {picture.nodes[name].round_number}: {picture.nodes[name].failure} "
                    "Put that right and start the same command again."
                )
