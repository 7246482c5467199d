"""A process that has SGLang imported and forks others from itself: an import takes 20 s and more, a fork none."""

import ctypes
import os
import pickle
import runpy
import signal
import socket
import struct
import sys
import traceback

from sglang_server import listen, serve

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Nursery:
    """Forked from a process that has SGLang imported: make it before that one has a thread."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            os._exit(_nursery_main(theirs))
        theirs.close()
        self._channel = ours

    def server(self, log: str, persistence_path=None) -> tuple:
        """Starts SGLang's server: (pid, port)."""
        return self._ask("server", log, persistence_path)

    def script(self, log: str, path: str, arguments: list) -> int:
        """Starts a Python script as its own `__main__`; its process id."""
        return self._ask("script", log, path, arguments)

    def kill(self, pid: int) -> None:
        """SIGKILL; returns when it is dead."""
        self._ask("kill", pid)

    def wait(self, pid: int) -> int:
        """Its exit code when it has ended."""
        return self._ask("wait", pid)

    def close(self) -> None:
        """Ends it and everything it forked."""
        self._channel.close()
        os.waitpid(self.pid, 0)

    def _ask(self, *request):
        _send(self._channel, request)
        kind, value = _receive(self._channel)
        if kind == "failed":
            raise RuntimeError(value)
        return value


def _send(channel: socket.socket, value) -> None:
    data = pickle.dumps(value)
    channel.sendall(struct.pack("<I", len(data)) + data)


def _receive(channel: socket.socket):
    (size,) = struct.unpack("<I", _exactly(channel, 4))
    return pickle.loads(_exactly(channel, size))


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = channel.recv(size - len(data))
        if not part:
            raise EOFError("the other side has ended")
        data += part
    return data


def _nursery_main(channel: socket.socket) -> int:
    die_with_parent()
    children = set()
    while True:
        try:
            what, *rest = _receive(channel)
        except EOFError:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            return 0
        try:
            _send(channel, ("done", _nursery_do(channel, children, what, rest)))
        except Exception:
            _send(channel, ("failed", traceback.format_exc()))


def _nursery_do(channel, children: set, what: str, rest: list):
    if what == "server":
        log, persistence_path = rest
        listener = listen()
        pid = _fork(channel, log, lambda: serve(listener, persistence_path))
        port = listener.getsockname()[1]
        listener.close()
        children.add(pid)
        return pid, port
    if what == "script":
        log, path, arguments = rest
        pid = _fork(channel, log, lambda: _run_script(path, arguments))
        children.add(pid)
        return pid
    (pid,) = rest
    children.discard(pid)
    if what == "kill":
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _fork(channel, log: str, work) -> int:
    """A child that runs `work()` with its output in `log`."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_parent()
        channel.close()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_script(path: str, arguments: list) -> None:
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")
