"""A wrong run configuration is refused before anything is sent, with the path of every wrong key."""

from pathlib import Path

import pytest

from hsl_cli.config_file import load_config
from hsl_cli.errors import BadInputError, exit_code_of

GOOD = """
name = "bones"
nodes = ["site-1", "site-2"]
sat_digest = "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"

[task]
task_id = "bones"
positive_class = "fracture"
negative_class = "none"
modality = "radiograph"

[training]
batch_size = 16
"""


def refused(path: Path) -> str:
    with pytest.raises(BadInputError) as caught:
        load_config(path)
    assert exit_code_of(caught.value) == 2
    return caught.value.sentence()


def test_toml_and_json_give_the_same_configuration(tmp_path: Path) -> None:
    toml, json = tmp_path / "run.toml", tmp_path / "run.json"
    toml.write_text(GOOD)
    json.write_text(load_config(toml).model_dump_json())
    assert load_config(toml) == load_config(json)
    assert load_config(toml).training.batch_size == 16


def test_every_wrong_key_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        GOOD.replace("batch_size = 16", 'batch_sise = 16\nlocal_epochs = "many"')
        .replace('"site-2"', '"Site 2"')
        .replace('modality = "radiograph"', "")
    )
    sentence = refused(path)
    assert "training.batch_sise: unknown key" in sentence
    assert "training.local_epochs: " in sentence
    assert "nodes[1]: " in sentence
    assert "task.modality: is required" in sentence


def test_a_rule_across_keys_is_said_in_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("\n".join(line for line in GOOD.splitlines() if not line.startswith("sat_digest")))
    assert "give sat_digest" in refused(path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("run.toml", "name = ", "not valid TOML"),
        ("run.json", "{", "not valid JSON"),
        ("run.json", "[]", "not a run configuration"),
        ("run.toml", "a = " + "[" * 50_000, "nested too deeply"),
        ("run.json", "[" * 100_000, "nested too deeply"),
        ("run.yaml", "", "is a .toml or .json file"),
        ("run.json", " " * (1 << 20) + "1", "larger than a configuration"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    assert said in refused(tmp_path / name)


def test_no_file(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "run.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    assert "not valid TOML" in refused(tmp_path / "bytes.toml")
