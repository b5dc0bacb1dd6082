"""The demo's processes: restarted when they die, ended with their demo, and never mistaken for a stranger's."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hsl_cli.demo.processes import (
    MAX_RESTARTS,
    Identity,
    ProcessFailedError,
    Program,
    Record,
    Supervisor,
    end_stale,
    identity,
)
from hsl_cli.demo.workdir import Layout
from hsl_cli.errors import RefusedError, UnreachableError
from hsl_model.protocol.clock import ManualClock, SystemClock

SLEEPER = "import signal, pathlib, os\npathlib.Path('ready').write_text(str(os.getpid()))\nsignal.pause()\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER
BROKEN = "print('opening the book', flush=True)\nraise SystemExit('no such book')\n"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    (tmp_path / "logs").mkdir()
    for name, source in (("sleeper", SLEEPER), ("stubborn", STUBBORN), ("broken", BROKEN)):
        (tmp_path / f"{name}.py").write_text(source)
    return Layout(tmp_path)


def program(layout: Layout, module: str) -> Program:
    return Program(module, module, {"PYTHONPATH": str(layout.root)})


def wait_dead(pid: int) -> None:
    """Wait for a child of ours without taking its exit status away from the supervisor."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def recorded(layout: Layout) -> dict[str, Identity]:
    return Record.model_validate_json(layout.processes.read_bytes()).processes


def test_a_killed_process_is_restarted_with_a_visible_line(layout: Layout) -> None:
    notes: list[str] = []
    processes = Supervisor(layout, SystemClock(), notes.append)
    processes.start(program(layout, "sleeper"))
    first = processes.pids()["sleeper"]
    try:
        os.kill(first, signal.SIGKILL)
        wait_dead(first)
        processes.look_after()
        second = processes.pids()["sleeper"]
        assert second != first
        assert recorded(layout)["sleeper"] == identity(second)
        assert notes == [f"sleeper ended with signal 9; restarted (log: {layout.log('sleeper')})"]
    finally:
        processes.stop_all()
    assert identity(second) is None
    assert recorded(layout) == {}


def test_a_process_that_cannot_live_fails_the_demo_with_the_end_of_its_log(layout: Layout) -> None:
    processes = Supervisor(layout, ManualClock(), lambda _: None)
    processes.start(program(layout, "broken"))
    for _ in range(MAX_RESTARTS):
        wait_dead(processes.pids()["broken"])
        processes.look_after()
    wait_dead(processes.pids()["broken"])
    with pytest.raises(ProcessFailedError) as caught:
        processes.look_after()
    processes.stop_all()
    assert "broken ended with exit code 1 for the 6th time" in caught.value.sentence()
    assert "no such book" in caught.value.sentence()


def test_old_restarts_are_forgiven(layout: Layout) -> None:
    clock = ManualClock()
    processes = Supervisor(layout, clock, lambda _: None)
    processes.start(program(layout, "broken"))
    for _ in range(MAX_RESTARTS + 1):
        wait_dead(processes.pids()["broken"])
        processes.look_after()
        clock.advance(15)
    processes.stop_all()


def test_waiting_for_what_never_comes_is_bounded(layout: Layout) -> None:
    processes = Supervisor(layout, ManualClock(), lambda _: None)
    processes.start(program(layout, "sleeper"))
    with pytest.raises(ProcessFailedError, match="sleeper was not ready after 5 s"):
        processes.wait_for(lambda: False, "sleeper", 5.0)
    processes.stop_all()


def test_a_step_is_repeated_while_its_service_is_being_restarted(layout: Layout) -> None:
    processes = Supervisor(layout, ManualClock(), lambda _: None)
    answers = iter((UnreachableError(reason="restarting"), UnreachableError(reason="restarting"), "done"))

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, UnreachableError):
            raise answer
        return answer

    assert processes.insist(ask, "coordinator", 5.0) == "done"
    with pytest.raises(RefusedError):
        processes.insist(_refuse, "coordinator", 5.0)


def _refuse() -> str:
    raise RefusedError(reason="no")


def test_kill_9_of_the_demo_ends_its_processes(layout: Layout) -> None:
    parent = (
        "import sys, pathlib, signal\n"
        "from hsl_cli.demo.processes import Program, Supervisor\n"
        "from hsl_cli.demo.workdir import Layout\n"
        "from hsl_model.protocol.clock import SystemClock\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "processes = Supervisor(Layout(root), SystemClock(), print)\n"
        "processes.start(Program('sleeper', 'sleeper', {'PYTHONPATH': str(root)}))\n"
        "processes.wait_for((root / 'ready').exists, 'sleeper', 20)\n"
        "print('started', flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent, str(layout.root)], stdout=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == b"started\n"
        child = psutil.Process(recorded(layout)["sleeper"].pid)
        demo.kill()
    child.wait(10)  # raises if it outlives its demo


def test_what_a_killed_demo_left_is_ended_by_pid_and_start_time(layout: Layout) -> None:
    notes: list[str] = []
    with subprocess.Popen([sys.executable, str(layout.root / "sleeper.py")], cwd=layout.root) as left:
        mine = identity(left.pid)
        assert mine is not None
        layout.processes.write_text(Record(processes={"hub": mine}).model_dump_json())
        end_stale(layout, SystemClock(), notes.append)
        assert left.wait(10) == -signal.SIGTERM
    assert notes == [f"ending hub (pid {mine.pid}), left by an earlier demo"]
    assert not layout.processes.exists()


def test_a_stranger_with_the_same_pid_is_left_alone(layout: Layout) -> None:
    with subprocess.Popen([sys.executable, str(layout.root / "sleeper.py")], cwd=layout.root) as stranger:
        earlier = Identity(pid=stranger.pid, started="another boot 12345")
        layout.processes.write_text(Record(processes={"hub": earlier}).model_dump_json())
        notes: list[str] = []
        end_stale(layout, SystemClock(), notes.append)
        assert (stranger.poll(), notes) == (None, [])
        stranger.kill()


def test_a_process_that_ignores_the_term_signal_is_killed_in_bounded_time(layout: Layout) -> None:
    class Hurried(SystemClock):
        """Every look at the clock is minutes later, so that the grace is over at once."""

        def __init__(self) -> None:
            self.looks = 0

        def monotonic(self) -> float:
            self.looks += 1
            return self.looks * 100.0

    notes: list[str] = []
    processes = Supervisor(layout, SystemClock(), notes.append)
    processes.start(program(layout, "stubborn"))
    processes.wait_for((layout.root / "ready").exists, "stubborn", 20)
    pid = processes.pids()["stubborn"]
    processes._clock = Hurried()
    processes.stop_all()
    assert identity(pid) is None
    assert "was killed" in notes[-1]
