"""Parts of paths that name a run and a round; what cannot be one is refused before any table is asked."""

from typing import Annotated

from fastapi import Path

from hsl_model.protocol.paths import RUN_ID_PATTERN

RunIdPath = Annotated[str, Path(pattern=RUN_ID_PATTERN)]
RoundNumberPath = Annotated[int, Path(ge=0, le=999_999)]
