"""Two rounds of two nodes for each arm of a TOML file: `python -m tests.docs.example_federation ARMS WORKDIR`.

Prints the number of rounds and the last fused digest, a line an arm.
"""

import sys
import tomllib
from pathlib import Path

from hsl_model.engine import EngineOptions
from hsl_study import configs
from hsl_study.config import StudyConfig
from hsl_study.federation import run_federation
from tests.hsl_model.engine_helpers import site_data


def main() -> None:
    arms, workdir = Path(sys.argv[1]), Path(sys.argv[2])
    smoke = tomllib.loads((configs.path_of("smoke") or Path()).read_text())
    study = StudyConfig.model_validate({**smoke, "arms": tomllib.loads(arms.read_text())["arms"]})
    sites = {"clinic-a": site_data(1), "clinic-b": site_data(2)}
    for arm in study.arms:
        config = study.run_config(arm, tuple(sites), 0, None)
        rounds = run_federation(config, sites, workdir / arm.name, EngineOptions(snapshot_every_steps=None))
        print(len(rounds) - 1, rounds[-1].fused_digest)


if __name__ == "__main__":
    main()
