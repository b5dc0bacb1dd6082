"""The undisturbed run that every disturbed one is held against."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.alliance import Alliance, digests
from tests.e2e.warm import command, warm_server


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    with warm_server() as path:
        yield path


@pytest.fixture
def new_alliance(tmp_path: Path, warm: Path) -> Iterator[Callable[..., Alliance]]:
    """Makes an alliance in a folder of its own and ends its processes afterwards."""
    made: list[Alliance] = []

    def make(**options: object) -> Alliance:
        alliance = Alliance(tmp_path / f"alliance-{len(made)}", trainer_command=command(warm), **options)  # type: ignore[arg-type]
        made.append(alliance)
        return alliance.__enter__()

    yield make
    for alliance in made:
        alliance.__exit__()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, warm: Path) -> list[str | None]:
    """The fused digest of every round of an undisturbed run by real processes."""
    with Alliance(tmp_path_factory.mktemp("undisturbed") / "alliance", trainer_command=command(warm)) as alliance:
        alliance.start()
        run_id = alliance.create_run()
        alliance.start_run(run_id)
        return digests(alliance.wait_for_end(run_id))
