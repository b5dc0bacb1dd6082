"""The house's own rules that no linter knows."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_FILE_LINES = 330
MAX_FUNCTION_LINES = 45
MAX_PARAMETERS = 6
FORBIDDEN_WORDS = ("aggregat", "synchroni")  # one word per thing: fuse, fusion


def product_files() -> list[Path]:
    return sorted(path for top in ("libs", "services") for path in (ROOT / top).rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def lines_without_docstring(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = function.body[0]
    total = (function.end_lineno or 0) - function.lineno + 1
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        total -= (first.end_lineno or 0) - first.lineno + 1
    return total


@pytest.mark.parametrize("path", product_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_FILE_LINES, "split the thought, or simplify it"
    for function in functions(path):
        assert lines_without_docstring(function) <= MAX_FUNCTION_LINES, f"{function.name} is too long"
        if _is_route(function) or _is_command(function):
            continue  # frameworks turn each parameter into an input of its own
        arguments = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
        required = [name for name in arguments if name not in ("self", "cls")]
        assert len(required) <= MAX_PARAMETERS + 2, f"{function.name} takes {len(required)} parameters"


def _decorators(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [ast.unparse(decorator) for decorator in function.decorator_list]


def _is_route(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(".get(" in text or ".post(" in text for text in _decorators(function))


def _is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(".command(" in text or ".callback(" in text for text in _decorators(function))


@pytest.mark.parametrize("path", product_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_one_word_per_thing(path: Path) -> None:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        for word in FORBIDDEN_WORDS:
            assert word not in line.lower() or "synchronous" in line.lower(), f"line {number}: {line.strip()}"


def test_exactly_one_training_loop() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in product_files()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if ".backward(" in line
    ]
    assert len(found) == 1, found
    assert found[0].startswith("libs/hsl_model/engine")


def test_only_the_clock_reads_the_time_or_sleeps() -> None:
    banned = ("time.sleep(", "time.time(", "time.monotonic(", "datetime.now(", "datetime.utcnow(", "asyncio.sleep(")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in product_files()
        if path.relative_to(ROOT) != Path("libs/hsl_model/protocol/clock.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if any(call in line for call in banned)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "module", ["coordinator.app", "node_agent.daemon", "embedded_hub.main", "sftpgo_hub.main", "hsl_cli.main"]
)
def test_torch_stays_in_the_training_child(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_method_has_its_file_and_its_test() -> None:
    from hsl_model.protocol.methods import METHODS

    for name in METHODS:
        assert (ROOT / "libs/hsl_model/methods" / f"{name}.py").is_file(), f"methods/{name}.py is missing"
        assert any(name in path.read_text() for path in (ROOT / "tests/hsl_model/methods").glob("test_*.py")), name


def test_no_secret_bulk_or_machine_path_in_the_tree() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in listed:
        path = ROOT / name
        if not path.is_file():
            continue
        assert path.stat().st_size < 512 * 1024, f"{name} is bulk"
        assert path.suffix not in {".npz", ".safetensors", ".pt", ".pth", ".pkl", ".sqlite", ".db"}, name
