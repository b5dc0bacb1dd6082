"""What a site chooses for its training reaches the engine, whole: settings, the message to the child, the engine."""

from dataclasses import asdict, fields
from pathlib import Path

from hsl_model.round_work import EngineOptions
from node_agent.context import engine_options
from node_agent.settings import NodeSettings
from node_agent.support.parts import PLAIN_SETTINGS
from node_agent.trainer.messages import Options

CHOSEN = {
    "device": "cuda",
    "num_threads": 3,
    "snapshot_every_steps": 7,
    "micro_batch_size": 5,
    "channels_last": True,
    "compiled": True,
    "cache_on_device": True,
}


def test_every_option_of_the_engine_is_a_setting_and_reaches_the_child(tmp_path: Path) -> None:
    assert {option.name for option in fields(EngineOptions)} == set(CHOSEN) == set(Options.model_fields)
    options = engine_options(NodeSettings(workdir=tmp_path, **CHOSEN))  # type: ignore[arg-type]
    assert asdict(EngineOptions(**options.model_dump())) == CHOSEN
    assert set(CHOSEN) <= set(PLAIN_SETTINGS), "the support bundle tells them"


def test_what_nobody_chose_is_the_engine_s_own_default(tmp_path: Path) -> None:
    assert EngineOptions(**engine_options(NodeSettings(workdir=tmp_path)).model_dump()) == EngineOptions()
