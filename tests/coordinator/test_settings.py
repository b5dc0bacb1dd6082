"""Settings: default, short and missing secrets are refused with a sentence; secrets are never shown."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from coordinator.settings import CoordinatorSettings, explain

GOOD = {
    "admin_token": "qX7-mN2pL9vB4kT8wR3zH6cY",
    "hub_admin_url": "http://127.0.0.1:8090",
    "hub_admin_token": "f1K8sD5gW2jQ7xP4nV9bM3tZ",
}


def test_good_secrets_are_taken_and_never_shown() -> None:
    settings = CoordinatorSettings(**GOOD, database_url="postgresql://hsl:a-db-passphrase-that-is-long@host/db")
    assert settings.admin_token.get_secret_value() == GOOD["admin_token"]
    for shown in (repr(settings), str(settings), settings.model_dump_json()):
        assert GOOD["admin_token"] not in shown
        assert GOOD["hub_admin_token"] not in shown
    assert "a-db-passphrase" not in repr(settings)


@pytest.mark.parametrize("name", ["admin_token", "hub_admin_token"])
@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        ("", "at least 24"),
        ("tooshort-Xy7", "at least 24"),
        ("changeme-changeme-changeme", "well-known"),
        ("admin-password-default-token", "well-known"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "well-known"),
        ("123412341234123412341234123412", "well-known"),
    ],
)
def test_weak_secrets_are_refused(name: str, secret: str, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CoordinatorSettings(**{**GOOD, name: secret})
    said = explain(caught.value)
    assert f"HSL_COORDINATOR_{name.upper()}" in said
    assert reason in said
    assert "openssl rand" in said
    assert not secret or secret not in f"{said}{caught.value}"


def test_unknown_and_impossible_settings_are_refused() -> None:
    for wrong in (
        {"colour": "blue"},
        {"port": 0},
        {"database_url": "mysql://x"},
        {"database_url": "sqlite:///:memory:"},
        {"tick_interval_s": 0},
        {"hub_admin_url": "hub"},
    ):
        with pytest.raises(ValidationError):
            CoordinatorSettings(**{**GOOD, **wrong})


def test_a_relative_sqlite_file_lies_below_the_working_folder(tmp_path: Path) -> None:
    def resolved(url: str) -> str:
        return CoordinatorSettings(**GOOD, workdir=tmp_path, database_url=url).resolved_database_url

    assert resolved("sqlite:///coordinator.db") == f"sqlite:///{tmp_path}/coordinator.db"
    assert resolved("sqlite:////data/x.db") == "sqlite:////data/x.db"
    assert resolved("postgresql://u@h/d") == "postgresql://u@h/d"


def test_a_default_password_of_the_database_is_refused_and_not_shown() -> None:
    for password in ("postgres", "changeme-changeme-changeme"):
        with pytest.raises(ValidationError) as caught:
            CoordinatorSettings(**GOOD, database_url=f"postgresql://hsl:{password}@h/d")
        said = explain(caught.value)
        assert "HSL_COORDINATOR_DATABASE_URL" in said
        assert "openssl rand" in said
        assert password not in f"{said}{caught.value}"
    CoordinatorSettings(**GOOD, database_url="postgresql://hsl@/d?host=/run/postgresql")


def test_secrets_may_be_files_of_their_names(tmp_path: Path) -> None:
    for name in ("admin_token", "hub_admin_token"):
        (tmp_path / f"hsl_coordinator_{name}").write_text(GOOD[name])
    settings = CoordinatorSettings(_secrets_dir=tmp_path, hub_admin_url=GOOD["hub_admin_url"])
    assert settings.admin_token.get_secret_value() == GOOD["admin_token"]
    assert settings.hub_admin_token.get_secret_value() == GOOD["hub_admin_token"]


def test_the_process_takes_its_secrets_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "hsl_coordinator_admin_token").write_text("changeme")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HSL_")}
    command = [sys.executable, "-m", "coordinator"]
    environment["HSL_SECRETS_FOLDER"] = str(tmp_path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "HSL_COORDINATOR_ADMIN_TOKEN: at least 24" in done.stderr
    assert "HSL_COORDINATOR_HUB_ADMIN_TOKEN: is not set" in done.stderr
    assert "make-secrets.sh" in done.stderr


def test_the_process_says_what_is_missing_and_ends_with_2() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HSL_")}
    command = [sys.executable, "-m", "coordinator"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "HSL_COORDINATOR_ADMIN_TOKEN: is not set; make one with" in done.stderr
    assert "HSL_COORDINATOR_HUB_ADMIN_URL: is not set" in done.stderr
    assert "Traceback" not in done.stderr
