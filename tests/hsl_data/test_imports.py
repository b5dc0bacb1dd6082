import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("hsl_data.site, hsl_data.sat, hsl_data.phantoms, hsl_data.domains, hsl_data.images", "torch"),
        ("hsl_data.binding", "numpy"),  # the daemon reads bindings and must start at once
        ("hsl_data.binding", "PIL"),
    ],
)
def test_imports_stay_light(module: str, unwanted: str) -> None:
    code = f"import {module}, sys; sys.exit({unwanted!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
