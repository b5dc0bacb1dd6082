"""Transfers over a `Line` that breaks, and what the next try has to find and do."""

from collections.abc import Callable, Iterable
from pathlib import Path

from hsl_model.protocol.paths import tensor_path
from hsl_model.protocol.retry import FailureKind
from node_agent.exchange.base import local_part
from node_agent.exchange.sftp import SftpExchange
from tests.embedded_hub.helpers import Hub, names, wait_until
from tests.faults.line import Line, Way
from tests.node_agent.exchange.helpers import MIB, Content, Watch

Site = tuple[SftpExchange, str]
# The line broke; or it broke, and the try to connect anew was cut as well.
BROKEN = (FailureKind.CONNECTION, FailureKind.LIMIT)
OVERHEAD = 128 << 10  # of a connection and the requests of a file: what may move beside its bytes


class WatchThatBreaks(Watch):
    """Calls `arm` once, when `at` bytes are done; 0: when the transfer starts, so that bytes are counted from there."""

    def __init__(self, arm: Callable[[], None], at: int = 0) -> None:
        super().__init__()
        self._arm, self._at, self.armed = arm, at, False

    def moved(self, done: int, total: int) -> None:
        if not self.armed and done >= self._at:
            self.armed = True
            self._arm()
        super().moved(done, total)


def put(site: Site, content: Content, watch: Watch) -> None:
    exchange, node_id = site
    exchange.put_tensors(content.path, node_id, content.sha256, watch)


def get(site: Site, content: Content, target: Path, watch: Watch) -> None:
    exchange, node_id = site
    exchange.get_tensors(node_id, content.sha256, len(content), target, watch)


def resume_and_check(hub: Hub, site: Site, line: Line, content: Content) -> None:
    """Put again over a healthy line; what was on the hub must not be moved again. Leaves the folder empty."""
    folder = hub.folder(site[1])
    part, final = folder / f"{content.sha256}.part", folder / f"{content.sha256}.safetensors"
    line.heal()
    # A hub may still write what it had received; when it has, the part is the beginning of the content, without a hole.
    wait_until(lambda: not part.exists() or content.data.startswith(part.read_bytes()), "a part without holes")
    was_done, kept = final.exists(), part.stat().st_size if part.exists() else 0
    assert not (was_done and kept)
    watch = Watch()
    put(site, content, watch)
    assert watch.start >= (len(content) if was_done else kept - MIB)  # the hub may have read a little more meanwhile
    assert line.moved[Way.UP] <= len(content) - watch.start + OVERHEAD
    assert final.read_bytes() == content.data
    assert names(folder) == [final.name]
    site[0].remove(tensor_path(site[1], content.sha256))


def resume_and_check_download(site: Site, line: Line, content: Content, target: Path) -> None:
    """Get again over a healthy line: whole MiB that are here are kept. Leaves nothing."""
    part = local_part(target)
    line.heal()
    kept = part.stat().st_size if part.exists() else 0
    assert content.data.startswith(part.read_bytes() if kept else b"")
    assert not target.exists()
    watch = Watch()
    get(site, content, target, watch)
    assert watch.start == kept // MIB * MIB
    assert line.moved[Way.DOWN] <= len(content) - watch.start + OVERHEAD
    assert target.read_bytes() == content.data
    assert not part.exists()
    target.unlink()


def check_parts(hub: Hub, site: Site, content: Content, sizes: Iterable[int], target: Path) -> None:
    """Parts of exactly so many bytes, on the hub and here, are gone on with to the byte; at most 1 MiB goes again."""
    folder = hub.folder(site[1])
    for size in sizes:
        (folder / f"{content.sha256}.part").write_bytes(content.data[:size])
        watch = Watch()
        put(site, content, watch)
        assert watch.start == max(0, size - MIB), size
        assert (folder / f"{content.sha256}.safetensors").read_bytes() == content.data, size
        local_part(target).write_bytes(content.data[:size])
        watch = Watch()
        get(site, content, target, watch)
        assert size - MIB < watch.start == size // MIB * MIB, size
        assert target.read_bytes() == content.data, size
        target.unlink()
        site[0].remove(tensor_path(site[1], content.sha256))
