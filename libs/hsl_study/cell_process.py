"""One cell in a process of its own: `python -m hsl_study.cell_process FOLDER SCENARIO ARM SEED THREADS`.

The row goes to stdout as one line of JSON, an error of ours as its sentence to stderr with status 2.
"""

import hashlib
import platform
import sys
from pathlib import Path

import numpy as np
import torch

from hsl_model.durable import write_bytes
from hsl_model.engine import EngineOptions
from hsl_model.memory import keep_all_freed_memory
from hsl_model.protocol.clock import SystemClock
from hsl_model.protocol.errors import HslError
from hsl_model.protocol.manifest import canonical_json
from hsl_study.arm_data import arm_pool
from hsl_study.arms import Deployment
from hsl_study.cells import CellRow, run_cell
from hsl_study.folder import StudyFolder
from hsl_study.pretraining import started_from_sat


def run(folder: StudyFolder, scenario: int, arm_name: str, seed: int, num_threads: int) -> CellRow:
    clock = SystemClock()
    begun = clock.monotonic()
    pool = folder.pool()
    partition = folder.partition(pool, scenario, seed)
    (arm,) = [arm for arm in folder.config.arms if arm.name == arm_name]
    nodes = tuple(node.node_id for node in partition.scenario.nodes)
    pool = arm_pool(arm.sat, pool, nodes, seed)
    config = folder.config.run_config(arm, nodes, seed, pool.sat_digest)
    key = (partition.scenario.name, arm_name, seed)
    scores = folder.scores(key)
    options = EngineOptions(num_threads=num_threads, snapshot_every_steps=None)
    if arm.pretrain_rounds and pool.sat is not None:
        config = started_from_sat(config, pool.sat, arm.pretrain_rounds, folder.cell(key), options)
    where = Deployment(folder.cell(key), options, folder.config.deploy)
    facts, scored = run_cell(arm, config, partition, pool, where)
    scores.parent.mkdir(exist_ok=True)
    write_bytes(scores, scored)
    return CellRow(
        scenario=partition.scenario.name,
        arm=arm_name,
        seed=seed,
        config_sha256=hashlib.sha256(canonical_json(config) + canonical_json(arm)).hexdigest(),
        scores_sha256=hashlib.sha256(scored).hexdigest(),
        versions={"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        num_threads=num_threads,
        seconds=round(clock.monotonic() - begun, 1),
        **facts.model_dump(),
    )


def main() -> None:
    path, scenario, arm, seed, num_threads = sys.argv[1:]
    keep_all_freed_memory()
    try:
        row = run(StudyFolder(Path(path)), int(scenario), arm, int(seed), int(num_threads))
    except HslError as error:
        sys.stderr.write(error.sentence() + "\n")
        sys.exit(2)
    sys.stdout.write(row.model_dump_json() + "\n")


if __name__ == "__main__":
    main()
