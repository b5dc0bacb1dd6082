"""What many seeds came to: counts, faults by kind, and how fast."""

import gc
from collections import Counter
from dataclasses import dataclass, field
from time import process_time

from tests.simulator.world import Outcome, simulate


@dataclass
class Tally:
    statuses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    violated: list[int] = field(default_factory=list)
    num_seeds: int = 0
    num_steps: int = 0
    num_rounds: int = 0
    virtual_s: float = 0.0
    processor_s: float = 0.0

    def play(self, seed: int) -> Outcome:
        gc.freeze()  # what is imported stays, and need not be looked through with every seed
        begun_s = process_time()
        outcome = simulate(seed)
        self.processor_s += process_time() - begun_s
        self.num_seeds += 1
        self.statuses[outcome.status] += 1
        self.faults += outcome.faults
        self.num_steps += outcome.num_steps
        self.num_rounds += outcome.num_rounds
        self.virtual_s += outcome.virtual_s
        if outcome.violation is not None:
            self.violated.append(seed)
        return outcome

    def summary(self) -> str:
        rate = self.num_seeds / self.processor_s
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.faults.most_common())
        return (
            f"simulator: {self.num_seeds} seeds, {self.num_steps} steps, {self.num_rounds} closed rounds, "
            f"{self.virtual_s / 3600:.0f} virtual hours, {rate:.2f} seeds per processor second; "
            f"{dict(self.statuses)}; violated: {self.violated or 'none'}\n"
            f"{sum(self.faults.values())} faults: {kinds}"
        )

    def record(self) -> dict[str, object]:
        return {
            "num_seeds": self.num_seeds,
            "num_violated": len(self.violated),
            "num_steps": self.num_steps,
            "num_closed_rounds": self.num_rounds,
            "virtual_hours": round(self.virtual_s / 3600, 1),
            "seeds_per_processor_s": round(self.num_seeds / self.processor_s, 2),
            "ended": dict(self.statuses),
            "faults": dict(self.faults.most_common()),
        }
