#!/usr/bin/env python3
"""Runs the tests of the independent USRBIO client against the stand-in.

    python3 tests/usrbio/run.py --foreword target/debug/foreword [--only PATTERN] [-v]

Everything happens in a mount namespace of its own with its own /dev/shm, so nothing of it can stay behind and nothing
outside is seen. Exit code: 0 passed, 1 failed, 77 cannot run here (the reason is printed).
"""

import argparse
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
CANNOT_RUN = 77
CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 0x4000 | 0x40000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    arguments = parse()
    reason = why_not(arguments.foreword)
    if reason:
        print(f"SKIPPED: the USRBIO client's tests cannot run here: {reason}")
        return CANNOT_RUN
    work_dir = tempfile.mkdtemp(prefix="foreword-usrbio-")
    os.chmod(work_dir, 0o755)
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        code = supervise(arguments, work_dir)
        left = leftovers(work_dir)
        for line in left:
            print("LEFT BEHIND:", line)
        return 1 if left else code
    finally:
        end_children()
        unmount_below(work_dir)
        shutil.rmtree(work_dir, ignore_errors=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--foreword", required=True, help="path of the foreword binary")
    parser.add_argument("--only", default=None, metavar="PATTERN", help="tests whose name has this in it (or matches, with *)")
    parser.add_argument("--deadline-s", type=float, default=300.0, help="give up after so many seconds")
    parser.add_argument("-v", "--verbose", action="store_true")
    arguments = parser.parse_args()
    arguments.foreword = os.path.abspath(arguments.foreword)
    return arguments


def why_not(foreword: str) -> str:
    """Why the tests cannot run, or an empty text. Enters the namespace on the way."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "the client is for x86-64 Linux"
    if os.geteuid() != 0:
        return "not root"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error}"
    if not os.access(foreword, os.X_OK):
        raise SystemExit(f"no such program: {foreword}")
    if _libc.unshare(CLONE_NEWNS) != 0:
        return f"unshare: {os.strerror(ctypes.get_errno())}"
    if not mount(b"none", b"/", None, MS_REC_PRIVATE, None):
        return f"private mounts: {os.strerror(ctypes.get_errno())}"
    if not mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=1g,mode=1777"):
        return f"a /dev/shm of its own: {os.strerror(ctypes.get_errno())}"
    return ""


def mount(source, target, fs_type, flags, data) -> bool:
    return _libc.mount(source, target, fs_type, ctypes.c_ulong(flags), data) == 0


def supervise(arguments, work_dir: str) -> int:
    """Runs the tests in a child, so that leftovers are looked for even if it dies."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os._exit(run_tests(arguments, work_dir))
    deadline_s = time.monotonic() + arguments.deadline_s
    while time.monotonic() < deadline_s:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                print(f"the tests were ended by signal {-code}")
            return 0 if code == 0 else 1
        time.sleep(0.02)
    print(f"the tests did not end within {arguments.deadline_s} s")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 1


def run_tests(arguments, work_dir: str) -> int:
    os.umask(0o022)
    sys.dont_write_bytecode = True
    sys.path.insert(0, HERE)
    import support

    support.configure(arguments.foreword, work_dir)
    loader = unittest.TestLoader()
    if arguments.only:
        loader.testNamePatterns = [arguments.only if "*" in arguments.only else f"*{arguments.only}*"]
    suite = loader.discover(HERE, pattern="test_*.py")
    runner = unittest.TextTestRunner(verbosity=2 if arguments.verbose else 1, stream=sys.stdout)
    result = runner.run(suite)
    code = 0 if result.wasSuccessful() and result.testsRun else 1
    try:
        support.stop_shared()
    except AssertionError as error:
        print("FAILED at the end:", error)
        code = 1
    sys.stdout.flush()
    return code


def leftovers(work_dir: str) -> list:
    """What the tests and the daemon left: mounts, names in /dev/shm, processes."""
    left = [f"a mount: {point}" for point in mounts_below(work_dir)]
    left += [f"/dev/shm/{name}" for name in os.listdir("/dev/shm")]
    return left + [f"a process: {pid}" for pid in children()]


def mounts_below(work_dir: str) -> list:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        points = [line.split(" ")[4] for line in table]
    return [point for point in points if point.startswith(work_dir + "/")]


def children() -> list:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return [int(pid) for pid in file.read().split()]


def end_children() -> None:
    """Ends them and theirs: what a child leaves becomes a child of this process."""
    while left := children():
        os.kill(left[0], signal.SIGKILL)
        os.waitpid(left[0], 0)


def unmount_below(work_dir: str) -> None:
    mnt_detach = 2
    for point in reversed(mounts_below(work_dir)):
        _libc.umount2(point.encode(), mnt_detach)


if __name__ == "__main__":
    sys.exit(main())
