"""A process ends quietly, whatever its threads do: SGLang's are daemons, which are in our calls at every exit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE_S, Agent

ENGINE = """
import atexit, sys, threading
ended = []
# Registered before the package's own hook, and so run after it.
atexit.register(lambda: print(*ended, flush=True))
sys.path.insert(0, sys.argv[1])
from support import spec
from foreword import _native

atexit.register(lambda: ended.append("ended"))
connection = _native.Connection(sys.argv[2])
namespace = connection.namespace(spec("a process that ends"))
assert namespace.wait_open(30), namespace.state()
places = _native.Places.buffer(bytearray(64 * 4096), 4096)
under_way = threading.Barrier(9)

def engine():
    for number in range(1 << 62):
        namespace.lookup(["key"] * 100)
        namespace.get(["key"] * 64, 0, places, every_key=True)
        if number == 10:
            under_way.wait()

for _ in range(8):
    threading.Thread(target=engine, daemon=True).start()
under_way.wait()
"""


def run(script: str, address: str) -> str:
    """What a process that runs the script says; it must end well, and say nothing else."""
    command = [sys.executable, "-c", script, str(Path(__file__).parent), address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


@pytest.mark.parametrize("attempt", range(5))
def test_threads_that_are_in_calls_do_not_abort_the_process_that_ends(agent: Agent, way: str, attempt: int) -> None:
    assert run(ENGINE, agent.address(way)) == "ended\n"


def test_hooks_of_the_exit_may_still_call(agent: Agent, way: str) -> None:
    """Those that run before the package's own hook, and those that run after it."""
    late = 'atexit.register(lambda: (ended.append(namespace.lookup(["key"])), connection.close()))\n'
    script = ENGINE.replace('atexit.register(lambda: ended.append("ended"))\n', late)
    early = 'atexit.register(lambda: (namespace.lookup(["key"]), connection.close(), print(*ended, flush=True)))\n'
    script = script.replace("atexit.register(lambda: print(*ended, flush=True))\n", early)
    assert run(script, agent.address(way)) == "0\n"


def test_calls_that_nobody_answers_do_not_keep_a_process(mortal: Agent, way: str) -> None:
    """The agent sleeps, and threads are in calls that may take ten minutes."""
    assert mortal.server is not None
    sleeps = f"import os, signal; os.kill({mortal.server.process.pid}, signal.SIGSTOP)\nplaces ="
    script = ENGINE.replace("places =", sleeps).replace("sys.argv[2])", "sys.argv[2], timeout_ms=600_000)")
    script = script.replace("    for number in", "    under_way.wait()\n    for number in")
    script = script.replace("number == 10", "False")
    try:
        assert run(script, mortal.address(way)) == "ended\n"
    finally:
        mortal.wake()


def test_a_process_that_closes_nothing_ends(agent: Agent, way: str) -> None:
    script = ENGINE[: ENGINE.index("places =")]
    assert run(script, agent.address(way)) == "ended\n"
