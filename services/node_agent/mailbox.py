"""What the agent's threads tell each other, behind one Condition: whoever changes something wakes everybody.

poller     -> desired state, contact with the coordinator, revoked
site API   -> pause, retry, consents (through the journal) and a nudge
main loop  -> missing files, progress, why it waits            main() -> stopping
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hsl_model.protocol.messages import DesiredState, Progress
from node_agent.errors import Failure


@dataclass
class Mailbox:
    changed: threading.Condition = field(default_factory=threading.Condition)
    generation: int = 0  # raised with every change: "did anything happen since I looked?"
    desired: DesiredState | None = None
    contact_at_s: float | None = None  # monotonic time of the coordinator's last answer
    contact_failure: Failure | None = None  # None while the coordinator answers
    revoked: bool = False
    paused: bool = False  # by the site's admin; the journal keeps it
    missing: frozenset[str] = frozenset()  # files this node needs and cannot find (rule 7)
    progress: Progress | None = None
    waiting: str | None = None
    retry_requested: bool = False
    rotation: str | None = None  # where new keys of this node stand, while they are under way
    stopping: bool = False

    @contextmanager
    def change(self) -> Iterator[None]:
        """Change fields inside the block; everybody who waits looks again."""
        with self.changed:
            yield
            self.generation += 1
            self.changed.notify_all()

    def differs_from(self, seen: int) -> bool:
        """Whether something has changed since generation `seen`, or the agent is to end."""
        return self.stopping or self.generation != seen

    def nudge(self) -> None:
        with self.change():
            pass

    def stop(self) -> None:
        with self.change():
            self.stopping = True
