"""The training child: the one process of a node that imports torch. `python -m node_agent.trainer.child RUN_FOLDER`.

    stdin  ──> reader thread ──> queue ──> main thread: one request at a time ──> stdout
               Interrupt, end of stdin, SIGTERM ──> should_stop ──> the engine writes a snapshot ──> Stopped

It ends when its parent's pipe closes, also when the parent was killed. A lock on the run folder makes a new child wait
until a dying one has written its snapshot. Anything else that prints goes to stderr, never between the replies.
"""

import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hsl_model.durable import FULL, DiskFullError
from hsl_model.locking import locked
from hsl_model.memory import keep_all_freed_memory
from hsl_model.protocol.clock import Clock, SystemClock
from hsl_model.protocol.config import Message
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.methods import refuse_outside_studies
from hsl_model.protocol.retry import FailureKind
from node_agent.trainer import messages as m

if TYPE_CHECKING:
    from hsl_data.site import PreparedSite
    from hsl_model.round_work import RoundResult, RoundSpec

# The daemon is gone and nobody reads the answer: a step that cannot be interrupted gets this long, then the child ends.
ORPHAN_S = 60.0
# More progress lines than this per second would only keep the daemon busy.
PROGRESS_EVERY_S = 0.25


class Child:
    def __init__(self, source: BinaryIO, sink: BinaryIO, clock: Clock) -> None:
        self._source = source
        self._sink = sink
        self._clock = clock
        self._queue: queue.SimpleQueue[m.Request | None] = queue.SimpleQueue()
        self._interrupted = threading.Event()
        self._ended = threading.Event()
        self._done = threading.Event()
        self._prepared: tuple[m.SiteSource, PreparedSite] | None = None
        self._progress_at_s = -PROGRESS_EVERY_S

    def run(self, run_folder: Path) -> None:
        threading.Thread(target=self._read, name="stdin", daemon=True).start()
        with locked(run_folder / "trainer.lock"):
            while not self._ended.is_set():
                request = self._queue.get()
                if request is None:
                    break
                self._reply(self._answer(request))
        self._done.set()

    def end(self) -> None:
        """Finish what is under way with a snapshot and exit. From the reader thread, or a signal."""
        self._ended.set()
        self._interrupted.set()
        self._queue.put(None)

    def _read(self) -> None:
        for line in self._source:
            request = m.REQUEST.validate_json(line)
            if isinstance(request, m.Interrupt):
                self._interrupted.set()
            else:
                self._interrupted.clear()
                self._queue.put(request)
        self.end()
        if not self._done.wait(ORPHAN_S):
            os._exit(1)

    def _answer(self, request: m.Request) -> Message:
        from hsl_model.round_work import Interrupted

        try:
            return _HANDLERS[request.kind](self, request)
        except Interrupted:
            return m.Stopped()
        except HslError as error:
            kind = FailureKind.SPACE if isinstance(error, DiskFullError) else FailureKind.REJECTED
            return m.Failed(failure_kind=kind, code=error.code, sentence=error.sentence())
        except Exception as error:  # noqa: BLE001 - process boundary: the daemon records it and goes on
            traceback.print_exc()
            return _unforeseen(error)

    def _reply(self, reply: Message) -> None:
        try:
            self._sink.write(m.to_line(reply))
            self._sink.flush()
        except BrokenPipeError:
            self.end()

    def _progress(self, done: int, total: int) -> None:
        now_s = self._clock.monotonic()
        if now_s - self._progress_at_s >= PROGRESS_EVERY_S or done == total:
            self._progress_at_s = now_s
            self._reply(m.Progressed(done=done, total=total))

    # --- requests ----------------------------------------------------------------------------------------------------

    def site(self, source: m.SiteSource) -> "PreparedSite":
        """The prepared data; read once per child, and from the cache after that."""
        from hsl_data.binding import SiteBinding
        from hsl_data.site import prepare_site

        if self._prepared is None or self._prepared[0] != source:
            source.cache.mkdir(parents=True, exist_ok=True, mode=0o700)
            binding = SiteBinding.model_validate(source.binding)
            with locked(source.cache / ".lock"):  # two children of one site may prepare the same data
                site = prepare_site(binding, source.task, source.sat_path, source.sat_digest, source.cache)
            self._prepared = (source, site)
        return self._prepared[1]

    def prepare(self, request: m.Prepare) -> Message:
        report = self.site(request.site).report
        return m.Prepared(counts=report.counts(), lines=tuple(report.lines()))

    def describe(self, request: m.Describe) -> Message:
        from hsl_model.model_state import all_specs, shared_names

        return m.Described(shared=shared_names(request.config), full=all_specs(request.config))

    def initialise(self, request: m.Initialise) -> Message:
        from hsl_model.engine import write_initial

        request.folder.mkdir(parents=True, exist_ok=True)
        return _trained(write_initial(request.config, request.folder))

    def train_round(self, request: m.TrainRound) -> Message:
        from hsl_model.engine import train_round
        from hsl_model.round_work import EngineOptions

        work, data = request.work, self.site(request.work.site).data
        request.workspace.mkdir(parents=True, exist_ok=True)
        result = train_round(
            _spec(work),
            data,
            work.start,
            request.workspace,
            EngineOptions(**work.options.model_dump()),
            should_stop=self._interrupted.is_set,
            progress=self._progress,
        )
        return _trained(result)

    def validate(self, request: m.Validate) -> Message:
        from hsl_model.engine import validate
        from hsl_model.round_work import EngineOptions

        work, data = request.work, self.site(request.work.site).data
        return m.Validated(metrics=validate(_spec(work), data, work.start, EngineOptions(**work.options.model_dump())))

    def fuse_own(self, request: m.FuseOwn) -> Message:
        from hsl_model.engine import fuse_own

        fused = fuse_own(_spec(request.work), request.plan, request.files, request.output)
        return m.Fused(model=m.MadeFile(path=request.output, sha256=fused.file_sha256, num_bytes=fused.num_bytes))

    def predict(self, request: m.Predict) -> Message:
        import numpy as np

        from hsl_data.images import load_image
        from hsl_model.engine import predict
        from hsl_model.round_work import EngineOptions

        work = request.work
        sat = self.site(work.site).data.sat
        images = np.stack([load_image(path, work.config.task) for path in request.images])
        options = EngineOptions(**work.options.model_dump())
        return m.Predicted(probabilities=tuple(predict(work.config, images, work.start, sat, options).tolist()))

    def try_batch(self, request: m.TryBatch) -> Message:
        from dataclasses import asdict

        from hsl_model.round_work import EngineOptions
        from node_agent.trainer.trial import try_batch

        options = EngineOptions(**request.options.model_dump())
        tried = try_batch(request.config, options, request.folder, self._clock, self._progress)
        return m.BatchTried(**asdict(tried))


_HANDLERS: Mapping[str, Callable[[Child, Any], Message]] = {
    "prepare": Child.prepare,
    "describe": Child.describe,
    "initialise": Child.initialise,
    "train_round": Child.train_round,
    "validate": Child.validate,
    "fuse_own": Child.fuse_own,
    "predict": Child.predict,
    "try_batch": Child.try_batch,
}


def _unforeseen(error: Exception) -> m.Failed:
    if isinstance(error, OSError) and error.errno in FULL:
        sentence = "The disk of the agent's folder is full; free some of it."
        return m.Failed(failure_kind=FailureKind.SPACE, code=DiskFullError.code, sentence=sentence)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, on a GPU
        sentence = "Not enough memory; set HSL_NODE_MICRO_BATCH_SIZE, or give the machine more."
        return m.Failed(failure_kind=FailureKind.SPACE, code="no_memory", sentence=sentence)
    sentence = f"An unexpected {type(error).__name__} in the training child; its log has the details."
    return m.Failed(failure_kind=FailureKind.BUG, code="trainer_internal", sentence=sentence)


def _spec(work: m.Work) -> "RoundSpec":
    from hsl_model.round_work import RoundSpec

    refuse_outside_studies(work.config.method.name)
    return RoundSpec(run_id=work.run_id, node_id=work.node_id, round_number=work.round_number, config=work.config)


def _trained(result: "RoundResult") -> m.Trained:
    shared, private = result.shared, result.private
    return m.Trained(
        shared=m.MadeFile(path=shared.path, sha256=shared.sha256, num_bytes=shared.num_bytes),
        private=None
        if private is None
        else m.MadeFile(path=private.path, sha256=private.sha256, num_bytes=private.num_bytes),
        metrics=result.metrics,
        num_cases=result.num_cases,
    )


def main() -> None:
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not speak between the replies
    child = Child(sys.stdin.buffer, replies, SystemClock())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the daemon decides
    signal.signal(signal.SIGTERM, lambda *_: child.end())
    keep_all_freed_memory()
    child.run(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
