"""The long poll: a node asks what should be true and is answered when that changes. Holds no thread and no session.

    poll -> newest snapshot -> desired state differs from the known one, or time is up -> answer
                 ^                          | no
                 '-- turnstile <- something was committed (notifier) <- waits

One snapshot serves all polls that wait for the same change; it is read by one of them. They are woken together and
pass the turnstile one by one, so that requests which come meanwhile are answered in between.
"""

import asyncio
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from coordinator.kernel import Kernel
from coordinator.kit.auth import Boot
from coordinator.ledger import watch
from coordinator.node_api.attendance import Attendance, recognised
from coordinator.node_api.desired import Told, told
from coordinator.node_api.snapshot import Loader, Snapshot
from coordinator.rounds import files
from coordinator.rounds.moves import Act
from coordinator.runs import repository as runs
from hsl_model.protocol.messages import DesiredRequest

# Two hundred answers in a row would keep the interpreter from every thread for half a second; with a pause after each
# they take about as long, and nobody else notices.
STEP_S = 0.002
# Contacts and phases change without waking anybody; a snapshot that is older would call nodes late that are not.
MAX_AGE_S = 15.0


@dataclass(frozen=True)
class Held:
    generation: int
    snapshot: Snapshot
    read_at: float  # monotonic
    told: dict[str, str] = field(default_factory=dict)  # node -> version it was told from this snapshot


class Snapshots:
    """The newest snapshot, read again only when something was committed since."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._loader = Loader(kernel.settings)
        self._one_reads = asyncio.Lock()
        self._held: Held | None = None

    async def newest(self) -> Held:
        """Not older than this call."""
        wanted = self._kernel.notifier.generation
        if self._held is None or not self._serves(self._held, wanted):
            async with self._one_reads:
                if self._held is None or not self._serves(self._held, wanted):
                    read_at, generation = self._kernel.clock.monotonic(), self._kernel.notifier.generation
                    self._held = Held(generation, await run_in_threadpool(self._load), read_at)
        return self._held

    def _serves(self, held: Held, generation: int) -> bool:
        return held.generation >= generation and self._kernel.clock.monotonic() - held.read_at <= MAX_AGE_S

    def _load(self) -> Snapshot:
        with self._kernel.snapshot() as session:
            return self._loader.load(session, self._kernel.clock.now())


class Turnstile:
    """Lets one pass, and the next a step later."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._next_at = 0.0  # of the event loop's clock

    async def __call__(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._turn:
            rest_s = self._next_at - loop.time()
            if rest_s > 0:
                await asyncio.wait({loop.create_future()}, timeout=rest_s)
            self._next_at = loop.time() + STEP_S


class LongPoll:
    """One for each application."""

    def __init__(self, kernel: Kernel) -> None:
        self.snapshots = Snapshots(kernel)
        self.attendance = Attendance(kernel)
        self._turnstile = Turnstile()
        self._kernel = kernel

    async def recognise(self, token: str, boot: Boot) -> str | None:
        """The node that polls, if nothing about it is new."""
        now = self._kernel.clock.now()
        held = await self.snapshots.newest()
        node_id = recognised(held.snapshot, token, boot, now)
        if node_id is not None:
            await self.attendance.note(node_id, now)
        return node_id

    async def answer(self, node_id: str, request: DesiredRequest) -> Told:
        """When the desired state differs from `known_version`, after `wait_s`, or when the process stops."""
        clock = self._kernel.clock
        held = await self.snapshots.newest()
        if set(request.missing) != _known_wants(held.snapshot, node_id):
            await run_in_threadpool(remember_missing, self._kernel, node_id, request)
            held = await self.snapshots.newest()
        held = await self._watched(held, node_id, request)
        give_up_at = clock.monotonic() + request.wait_s
        # What it was told from this very snapshot a moment ago need not be worked out again. An agent that has just
        # started knows nothing, and is told at once.
        known = request.known_version
        is_new = known is None or held.told.get(node_id) != known
        wish = told(node_id, held.snapshot, clock.now()) if is_new else None
        while wish is None or wish.version == request.known_version:
            left_s = give_up_at - clock.monotonic()
            if wish is not None and (left_s <= 0 or self._kernel.notifier.closed):
                break
            generation = await self._kernel.notifier.wait(held.generation, left_s)
            if generation == held.generation:  # time is up; look once more, for time itself may have changed something
                give_up_at = clock.monotonic()
            if not self._kernel.notifier.closed:
                await self._turnstile()
                held = await self.snapshots.newest()
            wish = told(node_id, held.snapshot, clock.now())
        held.told[node_id] = wish.version
        return wish

    async def _watched(self, held: Held, node_id: str, request: DesiredRequest) -> Held:
        """A node that is ahead of the ledger tells that a backup was restored."""
        seen, snapshot = request.seen, held.snapshot
        if seen is None or not watch.has_news(snapshot.ledger, snapshot.newest_rounds, node_id, seen):
            return held
        await run_in_threadpool(watch.notice, self._kernel, node_id, seen)
        return await self.snapshots.newest()


def _known_wants(snapshot: Snapshot, node_id: str) -> set[str]:
    return {wanted.file_sha256 for run in snapshot.runs for wanted in run.wanted if node_id in wanted.by}


def remember_missing(kernel: Kernel, node_id: str, request: DesiredRequest) -> None:
    with kernel.transaction() as session:
        act = Act(session, kernel.clock.now(), node_id)
        files.want(act, node_id, runs.joined(session, node_id), request.missing)
