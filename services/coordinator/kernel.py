"""What one coordinator process is made of: built once by `create_app`, found as `request.app.state.kernel`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from coordinator.db import Database, has_changed, newest_event
from coordinator.hub.admin import HubAdmin
from coordinator.ledger.mark import NewestMark
from coordinator.notifier import Notifier
from coordinator.settings import CoordinatorSettings
from hsl_model.protocol.clock import Clock


@dataclass(frozen=True)
class Kernel:
    settings: CoordinatorSettings
    clock: Clock
    database: Database
    hub: HubAdmin
    notifier: Notifier
    closes: tuple[Callable[[], None], ...] = ()  # what was opened for this kernel besides the database
    mark: NewestMark = field(default_factory=NewestMark)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """The one place that commits. Waiting nodes are told afterwards, when there is something to tell."""
        with self.database.writing() as session:
            yield session
        self.mark.committed(newest_event(session))
        if has_changed(session):
            self.notifier.changed()

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """For answers that change nothing: never waits for a writer, never makes one wait."""
        with self.database.reading() as session:
            yield session

    def close(self) -> None:
        self.database.close()
        for close in self.closes:
            close()
