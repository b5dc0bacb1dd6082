"""A real SFTPGo that is stopped in mid-transfer, has no room, refuses, is another one, or fails at the very end.

What the next tries do: finish with the right bytes, or end with the kind of failure that says who must act.
"""

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hsl_model.protocol.paths import manifest_path, part_path, tensor_path
from hsl_model.protocol.retry import TRANSIENT, FailureKind
from node_agent.exchange.base import ExchangeError
from tests.embedded_hub.helpers import make_login, names, wait_until
from tests.faults.journeys import Node
from tests.faults.line import Line
from tests.faults.tuned import TunedSftpgo
from tests.node_agent.exchange.helpers import MIB, Content, Watch, make_content
from tests.node_agent.exchange.mending import WatchThatBreaks, get, put
from tests.small_disk import fill, small_disk

pytestmark = pytest.mark.sftpgo
KEPT = b'{"the": "manifest of an earlier round"}'
NewNode = Callable[..., Node]


@pytest.fixture(scope="module")
def failing_close(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """While this file is there, CLOSE of an upload fails."""
    return tmp_path_factory.mktemp("hook") / "fail"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, failing_close: Path) -> Iterator[TunedSftpgo]:
    """Bans after four wrong keys; asks a program before it confirms an upload."""
    root = tmp_path_factory.mktemp("hub") / "hub"
    root.mkdir()
    hook = root / "hook.sh"
    hook.write_text(f"#!/bin/sh\n[ ! -e {failing_close} ]\n")
    hook.chmod(0o755)
    settings = {
        "COMMON__DEFENDER__THRESHOLD": "4",
        "COMMON__ACTIONS__EXECUTE_ON": "upload",
        "COMMON__ACTIONS__EXECUTE_SYNC": "upload",
        "COMMON__ACTIONS__HOOK": str(hook),
    }
    with TunedSftpgo(root, **settings) as running:
        yield running


@pytest.fixture
def at(hub: TunedSftpgo, new_node: NewNode) -> Node:
    return new_node(hub.port, hub)


def site_of(node: Node) -> tuple[object, str]:
    return node.exchange, node.node_id


def published(node: Node, content: Content) -> Path:
    return node.hub.folder(node.node_id) / f"{content.sha256}.safetensors"


# --- stopped in mid-transfer -----------------------------------------------------------------------------------------

STOPS = [
    pytest.param((signal.SIGKILL,), id="some"),
    pytest.param((signal.SIGTERM, signal.SIGKILL, signal.SIGTERM), id="many", marks=pytest.mark.faults),
]


@pytest.mark.parametrize("numbers", STOPS)
def test_a_server_that_is_stopped_in_mid_transfer(
    at: Node, hub: TunedSftpgo, tmp_path: Path, counted: Counter[str], numbers: tuple[signal.Signals, ...]
) -> None:
    """It may leave holes in what it had received: the rewind covers them, so that no byte is wrong at the second try
    and nothing is sent a third time."""
    for seed, number in enumerate(numbers):
        content = make_content(tmp_path, 6 * MIB, seed)
        for move in (
            lambda watch, content=content: put(site_of(at), content, watch),
            lambda watch, content=content: get(site_of(at), content, tmp_path / "target", watch),
        ):
            breaking = WatchThatBreaks(lambda number=number: os.kill(hub.server_pid, number), at=MIB)

            def before(tries: int) -> None:
                if tries == 2:  # the second found nobody, or somebody already
                    hub.wait_until_it_serves()

            journey = at.travel(lambda _, move=move, breaking=breaking: move(breaking), before)
            assert journey.done
            assert set(journey.kinds) <= {FailureKind.CONNECTION, FailureKind.LIMIT}, journey.kinds
            assert journey.kinds
            hub.wait_until_it_serves()
            counted[f"server stopped by {number.name}"] += 1
        assert published(at, content).read_bytes() == content.data
        assert (tmp_path / "target").read_bytes() == content.data
        (tmp_path / "target").unlink()


@pytest.mark.parametrize("num_bytes", [32 << 10, 295_000, MIB - 1])
def test_holes_that_a_stopped_server_left_are_written_over(
    at: Node, content: Content, counted: Counter[str], num_bytes: int
) -> None:
    """295 kB before the end is the farthest seen of a real one; the rewind covers 1 MiB, at the first try."""
    size = 2 * MIB
    part = at.hub.folder(at.node_id) / f"{content.sha256}.part"
    part.write_bytes(content.data[: size - num_bytes] + bytes(num_bytes - 1) + content.data[size - 1 : size])
    watch = Watch()
    assert at.once(lambda _: put(site_of(at), content, watch)) is None
    assert watch.start == size - MIB
    assert published(at, content).read_bytes() == content.data
    counted["holes before the end of a part"] += 1


def test_a_part_that_is_wrong_elsewhere_is_not_published(at: Node, content: Content, counted: Counter[str]) -> None:
    """Its size is right, and so is all that is sent again; only the hash of the whole tells."""
    part = at.hub.folder(at.node_id) / f"{content.sha256}.part"
    part.write_bytes(b"rot" + content.data[3:])

    def look(number: int) -> None:
        if number == 1:
            assert at.exchange.list_own() == ()

    journey = at.travel(lambda _: put(site_of(at), content, Watch()), look)
    assert journey.kinds == [FailureKind.MISMATCH]
    assert published(at, content).read_bytes() == content.data
    counted["part with wrong bytes"] += 1


def test_a_published_file_that_rotted_is_never_accepted(
    at: Node, content: Content, tmp_path: Path, counted: Counter[str]
) -> None:
    put(site_of(at), content, Watch())
    published(at, content).write_bytes(content.data[:-1] + b"x")
    target = tmp_path / "target"
    error = at.once(lambda _: get(site_of(at), content, target, Watch()))
    assert error is not None
    assert error.kind is FailureKind.MISMATCH
    assert list(tmp_path.glob("target*")) == []
    put(site_of(at), content, Watch())  # its owner is asked to publish it again
    get(site_of(at), content, target, Watch())
    assert target.read_bytes() == content.data
    counted["published file with wrong bytes"] += 1


# --- no room ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TunedSftpgo]:
    """Its files on a disk of 12 MB of their own."""
    root = tmp_path_factory.mktemp("full") / "hub"
    root.mkdir()
    with small_disk(root / "files", 12 * MIB), TunedSftpgo(root) as running:
        yield running


@pytest.fixture
def crowded(full_hub: TunedSftpgo, new_node: NewNode) -> Iterator[Node]:
    """A node of that hub, which leaves nothing there."""
    node = new_node(full_hub.port, full_hub)
    yield node
    (full_hub.root / "files" / "ballast").unlink(missing_ok=True)
    for path in node.exchange.list_own():
        node.exchange.remove(path)


def fill_disk_of(node: Node, leave: int = 0) -> Path:
    return fill(node.hub.root / "files", leave)


@pytest.mark.parametrize("missing", [1, 60_000, 120_000, 200_000, MIB])
def test_a_disk_that_is_full_at_the_tail(crowded: Node, content: Content, counted: Counter[str], missing: int) -> None:
    """50 to 200 kB too little: where Paramiko's own `put` reports success, with holes in the file."""
    node = crowded
    put(site_of(node), small := make_content(content.path.parent, 5000, missing), Watch())
    ballast = fill_disk_of(node, leave=len(content) - missing)
    kept = b""

    def before(number: int) -> None:
        nonlocal kept
        if number == 1:
            assert node.exchange.list_own() == tuple(sorted([own_part, own_small]))
            kept = (node.hub.folder(node.node_id) / f"{content.sha256}.part").read_bytes()
            ballast.unlink()

    own_part, own_small = part_path(node.node_id, content.sha256), tensor_path(node.node_id, small.sha256)
    watch = Watch()
    journey = node.travel(lambda _: put(site_of(node), content, watch), before)
    assert journey.kinds == [FailureKind.SPACE]
    assert "no room left" in journey.failures[0].sentence()
    assert published(node, content).read_bytes() == content.data
    assert published(node, small).read_bytes() == small.data
    assert content.data.startswith(kept), "no holes"
    counted["full disk at the tail"] += 1


def test_a_disk_that_is_full_at_a_rewrite_of_the_same_size(
    crowded: Node, content: Content, counted: Counter[str]
) -> None:
    """A part of the full size with nothing in it: the size is right whatever happens, and the disk takes no byte."""
    node = crowded
    part = node.hub.folder(node.node_id) / f"{content.sha256}.part"
    with part.open("wb") as file:
        file.truncate(len(content))
    ballast = fill_disk_of(node)

    def before(number: int) -> None:
        if number == 1:
            assert part.stat().st_size == len(content) - MIB, "what was there and not looked at stays"
            assert node.exchange.list_own() == (part_path(node.node_id, content.sha256),)
            ballast.unlink()

    journey = node.travel(lambda _: put(site_of(node), content, Watch()), before)
    assert journey.kinds == [FailureKind.SPACE, FailureKind.MISMATCH]
    assert published(node, content).read_bytes() == content.data
    counted["full disk at a rewrite of the same size"] += 1


def test_a_part_that_has_its_room_already_is_finished_on_a_full_disk(
    crowded: Node, content: Content, counted: Counter[str]
) -> None:
    node = crowded
    (node.hub.folder(node.node_id) / f"{content.sha256}.part").write_bytes(content.data)
    ballast = fill_disk_of(node)
    assert node.once(lambda _: put(site_of(node), content, Watch())) is None
    ballast.unlink()
    assert published(node, content).read_bytes() == content.data
    counted["full disk and a whole part"] += 1


def test_a_manifest_on_a_full_disk_leaves_the_old_one(crowded: Node, counted: Counter[str]) -> None:
    node = crowded
    path = manifest_path(node.node_id, "run-1", 1, "ab" * 32)
    node.exchange.put_manifest(KEPT, path)
    ballast = fill_disk_of(node)
    on_disk = node.hub.folder(node.node_id) / path.rsplit("/", 1)[1]

    def before(number: int) -> None:
        assert on_disk.read_bytes() == KEPT
        if number == 1:
            ballast.unlink()

    journey = node.travel(lambda exchange: exchange.put_manifest(b"n" * 60_000, path), before)
    assert journey.kinds == [FailureKind.SPACE]
    assert on_disk.read_bytes() == b"n" * 60_000
    counted["full disk at a manifest"] += 1


@pytest.mark.parametrize("kept", [0, MIB + MIB // 2])
def test_a_quota_that_is_exceeded(
    at: Node, hub: TunedSftpgo, content: Content, tmp_path: Path, counted: Counter[str], kept: int
) -> None:
    """SFTPGo deletes the file that is written when the quota is passed, and what it held before too. That is a part at
    most: what is published is never opened for writing, so it stays."""
    older, path = make_content(tmp_path, MIB, kept), manifest_path(at.node_id, "run-1", 1, "ab" * 32)
    put(site_of(at), older, Watch())
    at.exchange.put_manifest(KEPT, path)
    part = hub.folder(at.node_id) / f"{content.sha256}.part"
    if kept:
        part.write_bytes(content.data[:kept])
    hub.change(at.node_id, quota_size=MIB + 200_000)
    at.drop()  # an open connection keeps the quota of its login
    starts: list[int] = []

    def before(number: int) -> None:
        if number == 1:
            wait_until(lambda: not part.exists(), "SFTPGo to delete the part")
            hub.change(at.node_id, quota_size=0)
            at.drop()

    def move(_: object) -> None:
        watch = Watch()
        try:
            put(site_of(at), content, watch)
        finally:
            starts.extend(move[0] for move in watch.moves[:1])

    journey = at.travel(move, before)
    assert journey.kinds == [FailureKind.SPACE]
    assert TRANSIENT[FailureKind.SPACE]
    assert starts[-1] == 0
    assert [one.read_bytes() for one in (published(at, older), published(at, content))] == [older.data, content.data]
    assert at.exchange.get_manifest(path, hashlib.sha256(KEPT).hexdigest()) == KEPT
    counted["quota exceeded"] += 1


# --- fails at the very end -------------------------------------------------------------------------------------------


def test_a_close_that_fails(at: Node, content: Content, failing_close: Path, counted: Counter[str]) -> None:
    """Every write was acknowledged; the status of CLOSE alone says that nothing was kept. SFTPGo deletes the file."""
    failing_close.touch()

    def before(number: int) -> None:
        if number == 1:
            assert at.exchange.list_own() == ()
            failing_close.unlink()

    watch = Watch()
    journey = at.travel(lambda _: put(site_of(at), content, watch), before)
    assert journey.kinds == [FailureKind.SERVER_ERROR]
    assert published(at, content).read_bytes() == content.data
    counted["CLOSE that fails"] += 1


# --- another one, and refused ----------------------------------------------------------------------------------------


def test_a_wrong_host_key_is_final_and_nothing_is_sent(
    at: Node, hub: TunedSftpgo, content: Content, tmp_path: Path, counted: Counter[str]
) -> None:
    """Somebody else listens where the hub was: no user name, no byte, no second try by itself."""
    own, stranger = at.hub, make_login("stranger", tmp_path)
    with Line(hub.port) as line:
        at.port = line.port

        class Other:
            def address(self, login: object, **changes: object) -> object:
                return own.address(login, **{**changes, "host_key": stranger.public_key})  # type: ignore[arg-type]

        at.hub = Other()  # type: ignore[assignment]
        journey = at.travel(lambda exchange: exchange.put_tensors(content.path, at.node_id, content.sha256, Watch()))
        assert not journey.done
        assert journey.kinds == [FailureKind.HOST_KEY]
        assert "Nothing was sent" in journey.failures[0].sentence()
        assert not TRANSIENT[FailureKind.HOST_KEY]
        assert line.num_connections == 1
        at.hub = own
    assert names(hub.folder(at.node_id)) == []
    counted["wrong host key"] += 1


def test_a_banned_address_waits_and_goes_on(
    hub: TunedSftpgo, new_node: NewNode, content: Content, tmp_path: Path, counted: Counter[str]
) -> None:
    """Four wrong keys from one address ban it: the neighbour behind the same address waits, and its policy's pauses
    are long. A site elsewhere, and the coordinator, do not notice."""
    with Line(hub.port, source="127.0.0.2") as line, Line(hub.port, source="127.0.0.3") as elsewhere:
        neighbour, other = new_node(line.port, hub), new_node(elsewhere.port, hub)
        intruder = new_node(line.port, hub)
        intruder.login = make_login(intruder.node_id, tmp_path)

        def is_banned() -> bool:
            error = intruder.once(lambda exchange: exchange.list_own())
            assert error is not None
            assert error.kind is FailureKind.LIMIT
            neighbour.drop()  # open connections of a banned address go on
            return neighbour.once(lambda exchange: exchange.list_own()) is not None

        wait_until(is_banned, "the ban")
        put(site_of(other), content, Watch())
        assert hub.user(other.node_id)["status"] == 1

        def before(number: int) -> None:
            if number == 8:
                hub.stop()
                hub.start()  # an admin lifts it, or its time is over

        journey = neighbour.travel(lambda _: put(site_of(neighbour), content, Watch()), before)
        assert journey.kinds == [FailureKind.LIMIT] * 8
        assert journey.waited_s > 60, "somebody who is banned must not hammer"
        assert published(neighbour, content).read_bytes() == content.data
    counted["banned address"] += 1


def test_too_many_connections_look_like_a_ban_and_pass(at: Node, content: Content, counted: Counter[str]) -> None:
    """Also a session limit: the same text as a wrong key."""
    hub = at.hub
    assert isinstance(hub, TunedSftpgo)
    hub.change(at.node_id, max_sessions=1)
    journey = at.travel(
        lambda _: put(site_of(at), content, Watch()),
        lambda number: number == 3 and hub.change(at.node_id, max_sessions=64),
    )
    assert journey.done
    assert set(journey.kinds) <= {FailureKind.LIMIT, FailureKind.CONNECTION, FailureKind.DENIED}
    assert published(at, content).read_bytes() == content.data
    counted["session limit"] += 1


def test_every_failure_says_what_to_do() -> None:
    for kind in FailureKind:
        sentence = ExchangeError(kind=kind, doing="Publishing").sentence()
        acts = ("again", "ask the alliance's admin", "upgrade", "log", "hub does not have", "hsl node trust hub")
        assert any(act in sentence for act in acts), sentence
