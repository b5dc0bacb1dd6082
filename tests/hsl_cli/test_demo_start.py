"""Before anything starts: wrong options, folders that cannot be used, and what is remembered."""

import json
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import Result

from hsl_cli.demo.options import DemoOptions
from hsl_cli.demo.ports import check_free, choose_ports
from hsl_cli.demo.settings import Choices, checked_choices
from hsl_cli.demo.workdir import claimed, forget, recall, remember, remembered
from hsl_cli.errors import BadInputError

Hsl = Callable[..., Result]


def choices(**changed: object) -> Choices:
    return checked_choices(DemoOptions(**changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sites", "1"), "--sites 1: give a number from 2 to 32"),
        (("--rounds", "0"), "--rounds 0: give a number from 1"),
        (("--method", "fedsomething"), "--method fedsomething: choose one of hsl, local, fedavg"),
        (("--encoder", "vgg"), "--encoder vgg: choose one of resnet18, resnet_small"),
        (("--data", "missing.npz"), "missing.npz: there is no such file"),
        (("--size", "8"), "--size 8: give a number from 16"),
        (("--seed", "-1"), "--seed -1"),
        (("--sites", "many"), "Invalid value"),
        (("--sitse", "3"), "No such option"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_exit_code_2(
    hsl: Hsl, tmp_path: Path, arguments: tuple[str, str], said: str
) -> None:
    found = hsl("demo", "--workdir", tmp_path / "demo", *arguments)
    assert found.exit_code == 2
    assert said in found.stderr
    assert "Traceback" not in found.output
    assert not (tmp_path / "demo").exists()


def test_a_file_that_is_no_npz(hsl: Hsl, tmp_path: Path) -> None:
    (tmp_path / "images.npz").write_text("these are not the images you are looking for")
    found = hsl("demo", "--workdir", tmp_path / "demo", "--data", tmp_path / "images.npz")
    assert found.exit_code == 2
    assert "images.npz cannot be used as a data source" in found.stderr
    assert not (tmp_path / "demo" / "demo.json").exists()  # the same folder may be used with the right file


def test_a_workdir_that_cannot_be_made(hsl: Hsl, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = hsl("demo", "--workdir", tmp_path / "file" / "demo")
    assert found.exit_code == 2
    assert "cannot write there" in found.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_workdir_without_permission(hsl: Hsl, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert hsl("demo", "--workdir", tmp_path / "demo").exit_code == 2


def test_a_folder_with_other_files_is_not_touched(hsl: Hsl, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()  # as a demo has one, too
    (tmp_path / "data" / "thesis.tex").write_text("years of work")
    for fresh in ((), ("--fresh",)):
        found = hsl("demo", "--workdir", tmp_path, *fresh)
        assert found.exit_code == 2
        assert "holds other files (data)" in found.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "thesis.tex"]


def test_a_port_that_is_taken(hsl: Hsl, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = hsl("demo", "--workdir", tmp_path / "demo", "--port", port)
    assert found.exit_code == 2
    assert f"Port {port} on 127.0.0.1 is taken" in found.stderr


def test_one_demo_a_folder(tmp_path: Path, hsl: Hsl) -> None:
    with claimed(tmp_path / "demo"):
        found = hsl("demo", "--workdir", tmp_path / "demo")
    assert found.exit_code == 2
    assert "another demo is running in this folder" in found.stderr


def test_the_memory_is_private_and_read_back(tmp_path: Path) -> None:
    with claimed(tmp_path / "demo") as layout:
        memory = recall(layout, choices(), None)
        remember(layout, memory)
        for path in (layout.memory, layout.admin):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert json.loads(layout.admin.read_text()) == {"url": memory.url, "token": memory.admin_token}
        remember(layout, memory.model_copy(update={"run_id": "run-1"}))
        again = recall(layout, choices(), None)
        assert (again.run_id, again.ports, again.admin_token) == ("run-1", memory.ports, memory.admin_token)


def test_other_choices_are_not_mixed_into_a_folder(tmp_path: Path) -> None:
    with claimed(tmp_path / "demo") as layout:
        remember(layout, recall(layout, choices(), None))
        with pytest.raises(BadInputError, match="holds a demo with --rounds 3, --batch-size 16"):
            recall(layout, choices(rounds=5, batch_size=64), None)


def test_forgetting_takes_the_demo_and_nothing_else(tmp_path: Path) -> None:
    with claimed(tmp_path / "demo") as layout:
        remember(layout, recall(layout, choices(), None))
        for folder in (layout.hub, layout.data, layout.site("site-1")):
            folder.mkdir(parents=True)
        layout.result.write_text("{}")
        (layout.root / "notes.txt").write_text("mine")
        forget(layout)
        assert remembered(layout) is None
        assert sorted(path.name for path in layout.root.iterdir()) == ["demo.lock", "logs", "notes.txt"]


def test_a_damaged_memory_says_how_to_go_on(tmp_path: Path) -> None:
    with claimed(tmp_path / "demo") as layout:
        layout.memory.write_text("{")
        with pytest.raises(BadInputError, match="--fresh"):
            recall(layout, choices(), None)


def test_ports_are_free_distinct_and_outside_the_range_of_outgoing_connections() -> None:
    ports = choose_ports(None)
    assert len({ports.coordinator, ports.hub, ports.hub_admin}) == 3
    assert all(20_000 <= port < 32_000 for port in (ports.coordinator, ports.hub, ports.hub_admin))
    check_free(ports.hub)


def test_node_ids_sort_as_they_count() -> None:
    twelve = replace(DemoOptions(), sites=12)
    ids = checked_choices(twelve).node_ids()
    assert list(ids) == sorted(ids)
    assert (ids[0], ids[-1]) == ("site-01", "site-12")
    assert choices().node_ids() == ("site-1", "site-2", "site-3")
