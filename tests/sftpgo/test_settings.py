"""The one file of settings: every name is SFTPGo's, every line says why; the folder is made once and kept."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from sftpgo_hub.errors import HostKeyError, ProgramMissingError
from sftpgo_hub.folder import ENV_FILE, environment, prepare, provision, read_env
from sftpgo_hub.program import VERSION, find_program
from sftpgo_hub.settings import HubSettings
from tests.sftpgo.helpers import SftpgoProcess, need_sftpgo

ROOT = Path(__file__).parents[2]
TOKEN = "qX7-mN2pL9vB4kT8wR3zH6cY"
# Flags of `sftpgo serve`, which are in no configuration file.
FLAGS = {"LOG_FILE_PATH", "LOG_LEVEL", "GRACE_TIME", "LOADDATA_FROM", "LOADDATA_MODE"}


def settings(root: Path, **more: object) -> HubSettings:
    return HubSettings(root=root, admin_token=SecretStr(TOKEN), **more)  # type: ignore[arg-type]


def test_a_hub_that_nobody_could_find_is_refused(tmp_path: Path) -> None:
    """Nodes would be told to connect to 0.0.0.0."""
    with pytest.raises(ValidationError, match="HSL_HUB_PUBLIC_HOST"):
        settings(tmp_path, host="0.0.0.0")
    assert settings(tmp_path, host="0.0.0.0", public_host="hub.example").public_host == "hub.example"


def test_a_folder_named_from_here_is_that_folder_for_sftpgo_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SFTPGo is started in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    found = settings(Path("hub"))
    assert found.templates_folder == tmp_path / "hub" / "sftpgo" / "templates"
    assert environment(found)["SFTPGO_LOADDATA_FROM"] == str(tmp_path / "hub" / "sftpgo" / "provision.json")


def test_an_empty_variable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose passes on what nobody filled in."""
    monkeypatch.setenv("HSL_HUB_PUBLIC_HOST", "")
    assert settings(tmp_path).public_host is None


@pytest.mark.sftpgo
def test_every_setting_is_one_that_sftpgo_knows(tmp_path: Path) -> None:
    """It ignores the others without a word."""
    need_sftpgo()
    shipped = find_program().with_name("sftpgo.json")
    if not shipped.exists():
        pytest.skip(f"{shipped} is only beside a program that `make sftpgo` built")
    known = json.loads(shipped.read_text())
    for name in environment(settings(tmp_path)):
        assert name.startswith("SFTPGO_")
        short = name.removeprefix("SFTPGO_")
        if short in FLAGS:
            continue
        place = known
        for step in short.lower().split("__"):
            place = place[int(step)] if isinstance(place, list) else place[step]


def test_every_setting_says_why() -> None:
    lines = ENV_FILE.read_text().splitlines()
    reason = False
    for line in lines:
        if not line:
            reason = False
        elif line.startswith("#"):
            reason = True
        else:
            assert reason, f"{line} stands there without a reason"
    assert len(read_env(ENV_FILE)) >= 20


def test_compose_and_supervisor_read_the_same_file() -> None:
    assert (ROOT / "deploy/sftpgo/sftpgo.env").resolve() == ENV_FILE.resolve()
    assert f"VERSION={VERSION}" in (ROOT / "deploy/sftpgo/build.sh").read_text()


def test_the_folder_is_made_once_and_kept(tmp_path: Path) -> None:
    mine = settings(tmp_path / "hub")
    line = prepare(mine)
    key = mine.host_key_file.read_bytes()
    assert line.startswith("ssh-ed25519 ")
    assert b"BEGIN OPENSSH PRIVATE KEY" in key
    assert prepare(mine) == line
    assert mine.host_key_file.read_bytes() == key
    for secret in (mine.host_key_file, mine.provision_file):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    mine.host_key_file.write_text("half a key")
    with pytest.raises(HostKeyError, match="Restore it"):
        prepare(mine)


def test_addresses_of_the_coordinator_are_never_banned_and_alone_use_rest(tmp_path: Path) -> None:
    given = provision(settings(tmp_path, coordinator_addresses=("10.1.0.0/16",)))
    assert [(one["ipornet"], one["mode"]) for one in given["ip_lists"]] == [("10.1.0.0/16", 1)]
    assert given["admins"][0]["filters"]["allow_list"] == ["10.1.0.0/16"]
    assert given["users"][0]["filters"]["allowed_ip"] == ["10.1.0.0/16"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"admin_token": "short"},
        {"admin_token": "a" * 30},
        {"admin_token": "ab12CD34" * 10},
        {"coordinator_addresses": ["here"]},
        {"coordinator_addresses": []},
        {"port": 0},
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HubSettings(**{"root": tmp_path, "admin_token": TOKEN, **wrong})


def test_where_the_program_is_looked_for(tmp_path: Path) -> None:
    def program(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
        return path

    own, built = program(tmp_path / "own"), program(tmp_path / "cache" / f"sftpgo-{VERSION}" / "sftpgo")
    by_xdg = program(tmp_path / "xdg" / "heterosync" / f"sftpgo-{VERSION}" / "sftpgo")
    on_path = program(tmp_path / "bin" / "sftpgo")
    everything = {"HSL_SFTPGO": str(own), "HSL_CACHE": str(tmp_path / "cache"), "PATH": str(tmp_path / "bin")}
    assert find_program(everything) == own
    assert find_program({**everything, "HSL_SFTPGO": ""}) == built
    assert find_program({"XDG_CACHE_HOME": str(tmp_path / "xdg")}) == by_xdg
    assert find_program({"HSL_CACHE": str(tmp_path / "none"), "PATH": str(tmp_path / "bin")}) == on_path
    for missing in ({"HSL_SFTPGO": str(tmp_path / "nothing")}, {"HOME": str(tmp_path), "PATH": ""}):
        with pytest.raises(ProgramMissingError, match="make sftpgo"):
            find_program(missing)


@pytest.mark.sftpgo
def test_a_second_hub_in_the_folder_is_refused_and_a_taken_port_is_said_so(sftpgo: SftpgoProcess) -> None:
    for root, reason in ((sftpgo.root, "already serves"), (sftpgo.root / "other", f"port {sftpgo.port} is taken")):
        second = SftpgoProcess(root, ADMIN_PORT="0", PORT=str(sftpgo.port))
        second.token, second.rest_port, second.metrics_port = sftpgo.token, sftpgo.rest_port, sftpgo.metrics_port
        log = start_and_end(second)
        assert reason in log, log


def start_and_end(hub: SftpgoProcess) -> str:
    done = subprocess.run(
        [sys.executable, "-m", hub.module], env=hub.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    return done.stdout + done.stderr
