"""`hsl node check` against each thing that goes wrong at hospitals: one cause, one line, and what to ask for."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.config import NetworkConfig, TaskConfig, TrainingConfig
from hsl_model.protocol.messages import HubPlace
from hsl_model.protocol.retry import FailureKind
from node_agent.check import dns, host_key, port
from node_agent.check.finding import Concern, Outcome, Part, Place
from node_agent.check.run import LAST_CHECK, published_config
from node_agent.egress import verify
from node_agent.errors import NotEnrolledError
from node_agent.exchange import link
from node_agent.journal import Journal
from node_agent.trainer.parent import Trainer
from tests.embedded_hub.helpers import HubProcess, make_login, names
from tests.faults.line import Line
from tests.node_agent.check.scene import Cardboard, SiteUnderTest, amiss, of, outcome, the_one_amiss
from tests.node_agent.exchange.proxy import ConnectProxy
from tests.node_agent.tls import DAY, Authority
from tests.small_disk import fill, small_disk

SLOW_LINE = 4e6 / 8  # 4 Mbit/s in bytes per second


def tiny_config() -> Any:
    """Trained within a second."""
    task = TaskConfig(
        task_id="t", positive_class="p", negative_class="n", modality="radiograph", height=16, width=16
    )  # fmt: skip
    changes = {
        "task": task,
        "network": NetworkConfig(encoder="resnet_small"),
        "training": TrainingConfig(batch_size=8, num_anchors=4),
    }
    return published_config().model_copy(update=changes)


# --- all is well -----------------------------------------------------------------------------------------------------


def test_before_joining(site: SiteUnderTest, hub: HubProcess) -> None:
    report = site.check()
    assert not amiss(report.findings)
    assert not report.is_enrolled
    assert host_key.fingerprint(hub.info["host_key"]) in of(report, Part.HUB, Concern.HOST_KEY).sentence
    for concern in (Concern.UPLOAD, Concern.DOWNLOAD):
        assert "after enrolment" in of(report, Part.HUB, concern).sentence
    assert {(one.port, one.protocol, one.direction) for one in report.needed} == {
        (int(site.coordinator_url.rpartition(":")[2]), "HTTPS", "outgoing"),
        (hub.port, "SFTP over SSH", "outgoing"),
    }
    assert not site.workdir.exists()  # nothing is left where nobody has joined


def test_after_enrolment_with_a_real_file_and_a_real_batch(site: SiteUnderTest, hub: HubProcess) -> None:
    node_id = site.enrol(hub)
    report = site.check(config=tiny_config(), with_training=True, num_members=4, num_cases=80)
    assert not amiss(report.findings)
    assert {one.outcome for one in report.findings} == {Outcome.OK}
    assert len(report.findings) == 14
    assert names(hub.folder(node_id)) == []  # taken away again
    journal = Journal(site.workdir / "journal.sqlite", SystemClock())
    with journal.transaction() as connection:
        rows = connection.execute("SELECT kind, names, num_bytes FROM egress").fetchall()
    assert {row["kind"] for row in rows} == {"tensors"}
    assert all("hsl.check U8 [" in row["names"] for row in rows)
    assert verify(journal).num_bytes >= 1_000_000
    journal.close()
    assert sorted(path.name for path in site.workdir.iterdir()) == [
        LAST_CHECK,
        "journal.sqlite",
        "keys",
        "node.json",
        "token",
    ]
    batch = of(report, Part.HERE, Concern.TRAINING).measured
    up = of(report, Part.HUB, Concern.UPLOAD).measured["bytes_per_s"]
    down = of(report, Part.HUB, Concern.DOWNLOAD).measured["bytes_per_s"]
    assert report.estimate.training_s == pytest.approx(5 * 10 * batch["batch_s"])  # five epochs of ten batches
    assert report.estimate.transfer_s == pytest.approx(batch["model_bytes"] * (1 / up + 3 / down))
    assert "4 members" in report.estimate.sentence


def test_it_must_be_told_which_coordinator(site: SiteUnderTest) -> None:
    with pytest.raises(NotEnrolledError):
        site.check(coordinator_url=None)


# --- the way ---------------------------------------------------------------------------------------------------------


@contextmanager
def dropping_port() -> Iterator[int]:
    """Nobody accepts and the queue is full: further connections get no answer at all."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(listener.getsockname())
            yield int(listener.getsockname()[1])
        finally:
            for one in waiting:
                one.close()


def test_a_port_that_a_firewall_rejects(site: SiteUnderTest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    site.coordinator_url = "https://localhost:1"
    found = site.check(hub=HubPlace(host="127.0.0.1", port=closed))
    for part, number, protocol in ((Part.COORDINATOR, 1, "HTTPS"), (Part.HUB, closed, "SFTP over SSH")):
        finding = of(found, part, Concern.PORT)
        assert finding.outcome is Outcome.FAILED
        assert "refused" in finding.sentence
        assert finding.ask is not None
        assert finding.ask.line().endswith(f"port {number} ({protocol})")
        assert "allow outgoing TCP to " in finding.ask.line()
    assert len(amiss(found.findings)) == 2  # what needs the port is not checked


def test_a_port_whose_packets_are_dropped(
    site: SiteUnderTest, hub: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "CONNECT_S", 0.5)
    with dropping_port() as number:
        site.enrol(hub, port=number)
        found = the_one_amiss(site.check())
    assert (found.part, found.concern) == (Part.HUB, Concern.PORT)
    assert "drops the packets" in found.sentence


def test_something_that_takes_connections_and_says_nothing(
    site: SiteUnderTest, coordinator: Cardboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HANDSHAKE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        coordinator.hub = HubPlace(host="127.0.0.1", port=silent.getsockname()[1])
        found = the_one_amiss(site.check())
    assert found.concern is Concern.HOST_KEY
    assert "does not speak SSH" in found.sentence
    assert found.ask is not None
    assert "exempt from SSH inspection" in found.ask.wish


def test_a_name_that_nobody_knows() -> None:
    def unknown(host: str, number: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    place = Place(part=Part.HUB, host="hub.exmaple", port=22, protocol="SFTP over SSH")
    found = dns.check_name(place, unknown)
    assert (found.outcome, found.sentence.count("hub.exmaple")) == (Outcome.FAILED, 1)
    assert dns.check_name(place, lambda host, number: ["192.0.2.1"]).sentence == "hub.exmaple is 192.0.2.1."


def test_a_name_server_that_never_answers_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(dns, "LOOKUP_S", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(60) and [])
    found = dns.check_name(Place(part=Part.HUB, host="hub.example", port=22, protocol="SFTP over SSH"))
    released.set()
    assert found.outcome is Outcome.FAILED
    assert "No name server answered" in found.sentence


# --- a proxy ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def far(authority: Authority, hub: HubProcess) -> Iterator[Cardboard]:
    """A coordinator and a hub whose names only the proxy knows."""
    with Cardboard(authority, HubPlace(host="hub.example", port=2022), "coordinator.example") as service:
        yield service


def behind_proxy(tmp_path: Path, proxy: ConnectProxy, user: str = "") -> SiteUnderTest:
    return SiteUnderTest(tmp_path / "node", "https://coordinator.example", proxy=f"http://{user}127.0.0.1:{proxy.port}")


def test_everything_goes_through_the_proxy(tmp_path: Path, far: Cardboard, hub: HubProcess) -> None:
    with ConnectProxy({"coordinator.example:443": far.port, "hub.example:2022": hub.port}, "ward:secret") as proxy:
        site = behind_proxy(tmp_path, proxy, "ward:secret@")
        site.enrol(hub, host="hub.example", port=2022)
        report = site.check()
        place = f"127.0.0.1:{proxy.port}"
    assert not amiss(report.findings)
    assert outcome(report, Part.HUB, Concern.UPLOAD) is Outcome.OK
    assert [one.line() for one in report.needed] == [
        f"allow outgoing TCP to 127.0.0.1 port {proxy.port} (HTTP CONNECT)",
        f"at the proxy {place}, allow outgoing TCP to coordinator.example port 443 (HTTPS)",
        f"at the proxy {place}, allow outgoing TCP to hub.example port 2022 (SFTP over SSH)",
    ]
    assert "secret" not in report.model_dump_json()


@pytest.mark.parametrize(
    ("user", "names_known", "part", "words"),
    [
        ("", True, Part.COORDINATOR, "wants a user name and a password"),
        ("ward:wrong@", True, Part.COORDINATOR, "refuses those it got"),
        ("ward:secret@", False, Part.HUB, "could not get through"),
    ],
)
def test_a_proxy_that_refuses(
    tmp_path: Path, far: Cardboard, user: str, names_known: bool, part: Part, words: str
) -> None:
    with ConnectProxy({"coordinator.example:443": far.port}, "ward:secret") as proxy:
        report = behind_proxy(tmp_path, proxy, user).check()
    found = next(one for one in amiss(report.findings) if one.part is part)
    assert (found.concern, found.outcome) == (Concern.PROXY, Outcome.FAILED)
    assert words in found.sentence
    assert f"127.0.0.1:{proxy.port}" in found.sentence
    assert len(amiss(report.findings)) == 1


def test_a_proxy_that_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    site = SiteUnderTest(tmp_path / "node", "https://coordinator.example", proxy=f"http://127.0.0.1:{closed}")
    found = the_one_amiss(site.check())
    assert (found.concern, found.ask and found.ask.port) == (Concern.PROXY, closed)
    assert "is not reached" in found.sentence


# --- who answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        ({"valid": (-3 * DAY, -DAY)}, "ended"),
        ({"valid": (DAY, 3 * DAY)}, "begins"),
        ({"valid": (-DAY, 3 * DAY)}, "must renew it"),
    ],
)
def test_a_certificate_out_of_its_time(
    site: SiteUnderTest, authority: Authority, hub: HubProcess, certificate: Any, words: str
) -> None:
    with Cardboard(authority, HubPlace(host="127.0.0.1", port=hub.port), **certificate) as service:
        site.coordinator_url = service.url
        found = the_one_amiss(site.check(hub=service.hub))
    assert found.concern is Concern.CERTIFICATE
    assert words in found.sentence
    assert found.outcome is (Outcome.WARNING if "renew" in words else Outcome.FAILED)


def test_an_authority_that_is_not_ours(site: SiteUnderTest, hub: HubProcess, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "Firewall of the hospital")
    with Cardboard(stranger, HubPlace(host="127.0.0.1", port=hub.port)) as service:
        site.coordinator_url = service.url
        found = the_one_amiss(site.check(hub=service.hub))
    assert found.concern is Concern.CERTIFICATE
    assert "issued by Firewall of the hospital" in found.sentence
    assert "TLS inspection" in found.sentence
    assert found.ask is not None
    assert "exempt from TLS inspection" in found.ask.wish


def test_a_certificate_of_another_name(site: SiteUnderTest, authority: Authority, hub: HubProcess) -> None:
    with Cardboard(authority, HubPlace(host="127.0.0.1", port=hub.port), "other.example") as service:
        site.coordinator_url = f"https://localhost:{service.port}"
        found = the_one_amiss(site.check(hub=service.hub))
    assert "another name than localhost" in found.sentence


def test_a_login_page_is_no_coordinator(site: SiteUnderTest, coordinator: Cardboard) -> None:
    hub, coordinator.hub = coordinator.hub, b"<html>Please log in</html>"
    found = the_one_amiss(site.check(hub=hub))
    assert (found.concern, found.outcome) == (Concern.ANSWER, Outcome.FAILED)
    assert "login page" in found.sentence


def test_plain_http_to_another_machine(tmp_path: Path, hub: HubProcess) -> None:
    with ConnectProxy({"coordinator.example:80": hub.port}) as proxy:
        site = behind_proxy(tmp_path, proxy)
        site.coordinator_url = "http://coordinator.example"
        found = of(site.check(), Part.COORDINATOR, Concern.CERTIFICATE)
    assert found.outcome is Outcome.FAILED
    assert "https://" in found.sentence


def test_a_host_key_that_has_changed(site: SiteUnderTest, hub: HubProcess, tmp_path: Path) -> None:
    other = make_login("other", tmp_path).public_key
    site.enrol(hub, host_key=other)
    found = the_one_amiss(site.check())
    assert found.concern is Concern.HOST_KEY
    assert host_key.fingerprint(other) in found.sentence
    assert host_key.fingerprint(hub.info["host_key"]) in found.sentence
    assert "another host key" in found.sentence


def test_a_hub_that_does_not_know_this_site(site: SiteUnderTest, hub: HubProcess) -> None:
    node_id = site.enrol(hub)
    assert hub.admin("POST", f"/nodes/{node_id}/cut").is_success
    found = the_one_amiss(site.check())
    assert found.concern is Concern.UPLOAD
    assert "alliance's admin" in found.sentence


# --- line, clock, disk, training -------------------------------------------------------------------------------------


def test_a_slow_line(site: SiteUnderTest, hub: HubProcess) -> None:
    with Line(hub.port, bytes_per_s=SLOW_LINE) as line:
        site.enrol(hub, port=line.port)
        report = site.check(num_members=4)
    found = amiss(report.findings)
    assert [(one.concern, one.outcome) for one in found] == [
        (Concern.UPLOAD, Outcome.WARNING),
        (Concern.DOWNLOAD, Outcome.WARNING),
    ]
    for one in found:
        assert one.measured["bytes_per_s"] < 1.2 * SLOW_LINE
        assert "The line is slow" in one.sentence
        assert f"{one.measured['bytes_per_s'] * 8 / 1e6:.1f} Mbit/s" in one.sentence
    assert report.estimate.transfer_s is not None
    assert report.estimate.transfer_s > 4 * 95e6 / (1.2 * SLOW_LINE)


@pytest.mark.parametrize(("hours", "word"), [(1, "behind"), (-1, "ahead of")])
def test_a_clock_that_is_an_hour_off(site: SiteUnderTest, coordinator: Cardboard, hours: int, word: str) -> None:
    coordinator.ahead = timedelta(hours=hours)
    found = the_one_amiss(site.check())
    assert (found.concern, found.outcome) == (Concern.CLOCK, Outcome.FAILED)
    assert "NTP" in found.sentence
    assert word in found.sentence
    assert "60 s are tolerated" in found.sentence
    assert abs(found.measured["behind_s"] - 3600 * hours) < 60


@pytest.mark.parametrize(("seconds", "expected"), [(40, Outcome.OK), (-40, Outcome.OK), (200, Outcome.WARNING)])
def test_a_little_drift_is_tolerated(
    site: SiteUnderTest, coordinator: Cardboard, seconds: int, expected: Outcome
) -> None:
    coordinator.ahead = timedelta(seconds=seconds)
    assert outcome(site.check(), Part.COORDINATOR, Concern.CLOCK) is expected


def test_a_full_disk(site: SiteUnderTest, hub: HubProcess) -> None:
    with small_disk(site.workdir, 100_000_000) as folder:
        site.enrol(hub)
        fill(folder)
        report = site.check(with_training=True)
        left = sorted(path.name for path in folder.iterdir())
    found = the_one_amiss(report)
    assert (found.concern, found.outcome) == (Concern.DISK, Outcome.FAILED)
    assert found.sentence.startswith("The disk is full: 0 MB free")
    assert outcome(report, Part.HUB, Concern.HOST_KEY) is Outcome.OK
    for part, concern in ((Part.HUB, Concern.UPLOAD), (Part.HERE, Concern.TRAINING)):
        assert of(report, part, concern).sentence == "Needs room on the disk."
    assert left == ["ballast", "keys", "node.json", "token"]


def test_a_disk_that_holds_too_few_rounds(site: SiteUnderTest) -> None:
    found = the_one_amiss(site.check(num_rounds=100_000, num_members=200))
    assert found.concern is Concern.DISK
    assert found.sentence.startswith("The disk has too little room")
    assert "100000 rounds of 200 members" in found.sentence


def test_a_machine_that_cannot_train(site: SiteUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    from node_agent.errors import TrainerFailedError

    def no_memory(*_: Any, **__: Any) -> None:
        raise TrainerFailedError(FailureKind.SPACE, "no_memory", "Not enough memory; give the machine more.")

    monkeypatch.setattr(Trainer, "ask", no_memory)
    found = the_one_amiss(site.check(with_training=True))
    assert found.concern is Concern.TRAINING
    assert found.sentence.startswith("Not enough memory")
    assert "batch 64, 224 x 224 pixels" in found.sentence
