#!/usr/bin/env python3
"""SGLang's own metadata server from its wheel, on a free port of 127.0.0.1.

    VENV/bin/python tests/hf3fs/sglang_server.py [--persistence-path FILE] [--save-interval S]

It prints one line of JSON once it listens: {"pid": …, "port": …}. Its own main has a fixed default port and tells nobody
when it listens; everything else is its own: `run_metadata_server` is called as its main does.
"""

import argparse
import json
import os
import socket
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SAVE_INTERVAL_S = 60  # what its main has as the default


def shared_dir() -> str:
    """Where the scripts that run SGLang without a GPU are: FOREWORD_SHARED, else beside the repository."""
    return os.environ.get("FOREWORD_SHARED") or os.path.normpath(os.path.join(HERE, "..", "..", "..", "shared"))


def import_client() -> None:
    """SGLang's metadata server and its client."""
    scripts = os.path.join(shared_dir(), "sglang")
    if scripts not in sys.path:
        sys.path.insert(0, scripts)
    import sgl_cpu  # noqa: F401 - first: it makes the others importable
    import sglang.srt.mem_cache.storage.hf3fs.mini_3fs_metadata_server


def import_sglang() -> None:
    """Everything that the tests and the drives import. The tree is the one in Rust, as the drives ask for."""
    os.environ.setdefault("SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND", "rust")
    import_client()
    import sglang.srt.mem_cache.allocator
    import sglang.srt.mem_cache.storage.backend_factory
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--persistence-path", default=None)
    parser.add_argument("--save-interval", type=int, default=SAVE_INTERVAL_S)
    arguments = parser.parse_args()
    import_client()
    listener = listen()
    print(json.dumps({"pid": os.getpid(), "port": listener.getsockname()[1]}), flush=True)
    serve(listener, arguments.persistence_path, arguments.save_interval)


if __name__ == "__main__":
    main()
