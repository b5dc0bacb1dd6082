"""The embedded hub, killed at the n-th write, close, hash, rename or download, and when a rename is done.

Points: `before:write:5`, `after:rename:2`, …; occurrences are counted over restarts, in the folder of the markers.
"""

from collections.abc import Callable
from typing import Any

from embedded_hub.files import HubFiles
from embedded_hub.main import serve
from embedded_hub.settings import HubSettings
from tests.e2e.kill_points import KillPoints

NAMES = ("write", "close", "sha256", "rename", "open_for_reading")


def counted(name: str, method: Callable[..., Any], points: KillPoints) -> Callable[..., Any]:
    def run(self: HubFiles, *arguments: Any, **named: Any) -> Any:
        number = points.count(name)
        points.reached(f"before:{name}:{number}")
        result = method(self, *arguments, **named)
        points.reached(f"after:{name}:{number}")
        return result

    return run


if __name__ == "__main__":
    POINTS = KillPoints()
    for each in NAMES:
        setattr(HubFiles, each, counted(each, getattr(HubFiles, each), POINTS))
    serve(HubSettings())
