"""Where the sftpgo program is: `HSL_SFTPGO`, what `make sftpgo` built, or PATH."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from sftpgo_hub.errors import ProgramMissingError

VERSION = "2.7.5"  # what the permissions, the REST calls and the tests were written against; also in build.sh


def find_program(environment: Mapping[str, str] = os.environ) -> Path:
    """Raises `ProgramMissingError`."""
    if named := environment.get("HSL_SFTPGO"):
        if os.access(named, os.X_OK):
            return Path(named).resolve()
        raise ProgramMissingError(looked=f"HSL_SFTPGO names {named}")
    built = cache(environment) / f"sftpgo-{VERSION}" / "sftpgo"
    if os.access(built, os.X_OK):
        return built.resolve()
    if on_path := shutil.which("sftpgo", path=environment.get("PATH")):
        return Path(on_path).resolve()
    raise ProgramMissingError(looked=f"neither {built} nor on PATH")


def cache(environment: Mapping[str, str]) -> Path:
    if own := environment.get("HSL_CACHE"):
        return Path(own)
    home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home()) / ".cache"
    return Path(home) / "heterosync"
