#!/usr/bin/env python3
"""SGLang's own metadata server from its wheel, on a free port of 127.0.0.1.

    VENV/bin/python tests/hf3fs/real_server.py [--persistence-path FILE] [--save-interval S]

It prints one line of JSON once it listens: {"pid": …, "port": …}. Its own main has a fixed default port and tells nobody
when it listens; everything else is its own: `run_metadata_server` is called as its main does.

For tests a process that has SGLang imported already forks servers (`Nursery`): an import takes 20 s and more.
"""

import argparse
import ctypes
import json
import os
import pickle
import runpy
import signal
import socket
import struct
import sys
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
SAVE_INTERVAL_S = 60  # what its main has as the default
PR_SET_PDEATHSIG = 1


def shared_dir() -> str:
    """Where the scripts that run SGLang without a GPU are: FOREWORD_SHARED, else beside the repository."""
    return os.environ.get("FOREWORD_SHARED") or os.path.normpath(os.path.join(HERE, "..", "..", "..", "shared"))


def import_sglang() -> None:
    """Everything that the tests and the drives import, once. SGLang's tree is the Rust one, as its default is."""
    os.environ.setdefault("SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND", "rust")
    scripts = os.path.join(shared_dir(), "sglang")
    if scripts not in sys.path:
        sys.path.insert(0, scripts)
    import sgl_cpu  # noqa: F401 - first: it makes the others importable
    import sglang.srt.mem_cache.allocator
    import sglang.srt.mem_cache.storage.backend_factory
    import sglang.srt.mem_cache.storage.hf3fs.mini_3fs_metadata_server
    import sglang.srt.mem_cache.unified_radix_cache
    import sglang.srt.server_args
    import uvicorn  # noqa: F401


def serve(listener: socket.socket, persistence_path=None, save_interval_s: int = SAVE_INTERVAL_S) -> None:
    """Runs SGLang's server on a socket that listens already; returns when it is told to end."""
    import uvicorn
    from sglang.srt.mem_cache.storage.hf3fs import mini_3fs_metadata_server as real

    def run_on_listener(app, **_):
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])

    uvicorn.run = run_on_listener
    real.run_metadata_server(persistence_path=persistence_path, save_interval=save_interval_s)


def listen() -> socket.socket:
    """A socket that listens on a free port: whoever connects from now on is answered once the server runs."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(512)
    return listener


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Nursery:
    """A process that has SGLang imported and no threads, and forks others from itself. Make it before any thread is."""

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--persistence-path", default=None)
    parser.add_argument("--save-interval", type=int, default=SAVE_INTERVAL_S)
    arguments = parser.parse_args()
    import_sglang()
    listener = listen()
    print(json.dumps({"pid": os.getpid(), "port": listener.getsockname()[1]}), flush=True)
    serve(listener, arguments.persistence_path, arguments.save_interval)


if __name__ == "__main__":
    main()
