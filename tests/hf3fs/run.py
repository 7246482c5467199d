#!/usr/bin/env python3
"""Runs SGLang's own hf3fs metadata clients, and its server, beside Foreword's.

    python3 tests/hf3fs/run.py --foreword target/debug/foreword [--venv VENV] [--only PATTERN] [-v]
    python3 tests/hf3fs/run.py --foreword target/debug/foreword --plain     # without SGLang: plain HTTP calls

VENV, or FOREWORD_SGLANG_VENV: made by ../shared/sglang/install_venv.sh. ../shared is looked for beside the repository, or
where FOREWORD_SHARED says. Exit code: 0 passed, 1 failed, 77 cannot run here (the reason is printed).
"""

import argparse
import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
CANNOT_RUN = 77
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    arguments = parse()
    if arguments.inside:
        return run_tests(arguments, arguments.inside)
    sys.dont_write_bytecode = True
    if not os.access(arguments.foreword, os.X_OK):
        raise SystemExit(f"no such program: {arguments.foreword}")
    reason = "" if arguments.plain else why_not(arguments.venv)
    if reason:
        print(f"SKIPPED: SGLang's hf3fs clients beside Foreword: {reason}")
        return CANNOT_RUN
    work_dir = tempfile.mkdtemp(prefix="foreword-hf3fs-")
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        code = supervise(arguments, work_dir)
        left = children()
        for pid in left:
            print("LEFT BEHIND: a process:", pid, command_line(pid))
        return 1 if left else code
    finally:
        end_children()
        shutil.rmtree(work_dir, ignore_errors=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--foreword", required=True, help="path of the foreword binary")
    parser.add_argument("--venv", default=os.environ.get("FOREWORD_SGLANG_VENV"), help="a virtual environment with SGLang")
    parser.add_argument("--plain", action="store_true", help="only the tests that need no SGLang")
    parser.add_argument("--only", default=None, metavar="PATTERN", help="tests whose name has this in it (or matches, with *)")
    parser.add_argument("--deadline-s", type=float, default=400.0, help="give up after so many seconds")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--inside", default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.foreword = os.path.abspath(arguments.foreword)
    return arguments


def why_not(venv) -> str:
    """Why SGLang cannot be run, or an empty text."""
    from sglang_server import shared_dir

    if not venv:
        return "no virtual environment is named (--venv, FOREWORD_SGLANG_VENV)"
    if not os.access(os.path.join(venv, "bin", "python"), os.X_OK):
        return f"no virtual environment: {venv}"
    script = os.path.join(shared_dir(), "sglang", "drive_unified_cache.py")
    return "" if os.path.exists(script) else f"no {script}"


def supervise(arguments, work_dir: str) -> int:
    """Runs the tests in a child, with the Python that has SGLang, so that leftovers are looked for even if it dies."""
    python = sys.executable if arguments.plain else os.path.join(arguments.venv, "bin", "python")
    child = subprocess.Popen([python, os.path.abspath(__file__), *sys.argv[1:], "--inside", work_dir])
    try:
        code = child.wait(arguments.deadline_s)
    except subprocess.TimeoutExpired:
        print(f"the tests did not end within {arguments.deadline_s} s")
        child.kill()
        child.wait()
        return 1
    if code < 0:
        print(f"the tests were ended by signal {-code}")
    return 0 if code == 0 else 1


def run_tests(arguments, work_dir: str) -> int:
    # SGLang's modules are compiled once for a virtual environment; ours leave nothing in the repository.
    sys.pycache_prefix = os.environ.get("PYTHONPYCACHEPREFIX") or os.path.join(sys.prefix, "pycache")
    sys.dont_write_bytecode = arguments.plain
    import nursery
    import sglang_server
    import support

    support.configure(foreword=arguments.foreword, work_dir=work_dir)
    os.environ["TMPDIR"] = work_dir  # the drives make their directories there
    tempfile.tempdir = None
    if not arguments.plain:
        started_s = time.monotonic()
        sglang_server.import_sglang()
        support.configure(nursery=nursery.Nursery())
        logging.disable(logging.ERROR)  # SGLang's clients log each miss
        print(f"SGLang was imported in {time.monotonic() - started_s:.1f} s", flush=True)
    loader = unittest.TestLoader()
    if arguments.only:
        loader.testNamePatterns = [arguments.only if "*" in arguments.only else f"*{arguments.only}*"]
    suite = loader.discover(HERE, pattern="test_plain.py" if arguments.plain else "test_*.py")
    result = unittest.TextTestRunner(verbosity=2 if arguments.verbose else 1, stream=sys.stdout).run(suite)
    if not arguments.plain:
        support.setting("nursery").close()
    sys.stdout.flush()
    return 0 if result.wasSuccessful() and result.testsRun else 1


def children() -> list:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(pid) for pid in file.read().split()]


def command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read().replace("\0", " ")
    except OSError:
        return ""


def end_children() -> None:
    """Ends them and theirs: what a child leaves becomes a child of this process."""
    while left := children():
        os.kill(left[0], signal.SIGKILL)
        os.waitpid(left[0], 0)


if __name__ == "__main__":
    sys.exit(main())
