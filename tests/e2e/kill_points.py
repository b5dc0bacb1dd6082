"""kill -9 of the own process at a named point, once: a marker on disk remembers that it happened."""

import os
import signal
from pathlib import Path


class KillPoints:
    """The points this process should die at, from `HSL_TEST_KILL` ("a,b,c"); markers in `HSL_TEST_KILL_MARKERS`."""

    def __init__(self) -> None:
        self._names = [name for name in os.environ.get("HSL_TEST_KILL", "").split(",") if name]
        self._markers = Path(os.environ["HSL_TEST_KILL_MARKERS"])
        self._markers.mkdir(parents=True, exist_ok=True)

    def reached(self, point: str) -> None:
        """Die here, if this is the first of the points still to come that bears this name."""
        if point not in self._names:
            return
        marker = self._markers / point.replace("/", "_").replace(":", "_")
        if marker.exists():
            return
        with marker.open("w") as file:
            os.fsync(file.fileno())
        os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def environment(points: list[str], markers: Path) -> dict[str, str]:
        return {"HSL_TEST_KILL": ",".join(points), "HSL_TEST_KILL_MARKERS": str(markers)}


def died_at(markers: Path) -> set[str]:
    return {path.name for path in markers.iterdir()} if markers.is_dir() else set()
