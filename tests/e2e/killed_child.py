"""The training child, killed at a step of round 1, between its result and its reply, and while it validates."""

from typing import Any

import hsl_model.engine
from node_agent.trainer import child
from tests.e2e.kill_points import KillPoints


def killing(train: Any, validate: Any, points: KillPoints) -> None:
    def train_round(spec: Any, *arguments: Any, progress: Any, **rest: Any) -> Any:
        def stepped(done: int, total: int) -> None:
            if spec.round_number == 1:
                points.reached(f"step:{done}")
            progress(done, total)

        result = train(spec, *arguments, progress=stepped, **rest)
        if spec.round_number == 1:
            points.reached("after:train")
        return result

    def validate_round(spec: Any, *arguments: Any, **rest: Any) -> Any:
        if spec.round_number == 1:
            points.reached("before:validate")
        return validate(spec, *arguments, **rest)

    hsl_model.engine.train_round = train_round
    hsl_model.engine.validate = validate_round


def main() -> None:
    killing(hsl_model.engine.train_round, hsl_model.engine.validate, KillPoints())
    child.main()
