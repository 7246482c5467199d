"""Real servers for the tests: one metadata replica, and agents that can be stopped, killed and put to sleep."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foreword import _native

PATIENCE_S = 30.0
"""How long anything may take that has to happen."""

PAGE_BYTES = 4096


def binary() -> str:
    """The ``foreword`` that is tested: $FOREWORD_BINARY, else what was built last."""
    named = os.environ.get("FOREWORD_BINARY")
    if named:
        return named
    target = Path(os.environ.get("CARGO_TARGET_DIR") or Path(__file__).parents[2] / "target")
    built = [path for kind in ("release", "debug") if (path := target / kind / "foreword").exists()]
    if not built:
        raise RuntimeError(f"expected $FOREWORD_BINARY or a foreword in {target}, got neither")
    return str(max(built, key=lambda path: path.stat().st_mtime))


def until(condition: Callable[[], Any], what: str) -> Any:
    """What the condition gives as soon as it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.02)
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A process that prints one line of JSON when it serves."""

    def __init__(self, log: Path, *arguments: str) -> None:
        with log.open("a") as stderr:
            self.process = subprocess.Popen(
                [binary(), *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{' '.join(arguments)}: ended at its start, see {log}:\n{log.read_text()[-2000:]}"
        self.announced = json.loads(line)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it, awake or not."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.send_signal(signal.SIGCONT)
        self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Agent:
    """One agent: it keeps its name, its socket and its port over restarts."""

    def __init__(self, cluster: Cluster, name: str, arguments: tuple[str, ...]) -> None:
        self.cluster, self.name = cluster, name
        self.socket = cluster.folder / f"{name}.sock"
        self.port = free_port()
        self.arguments = arguments
        self.server: Server | None = None
        self.start()

    def address(self, way: str) -> str:
        """By ``unix`` or ``tcp``."""
        return f"unix:{self.socket}" if way == "unix" else f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self.server = Server(
            self.cluster.folder / f"{self.name}.log",
            *("node", "--name", self.name, "--meta", self.cluster.meta_address),
            *("--listen", f"127.0.0.1:{self.port}", "--socket", str(self.socket)),
            *("--l3", f"posix:{self.cluster.folder}/l3", *self.arguments),
        )

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.server is not None:
            self.server.end(number)
            self.server = None

    def sleep(self) -> None:
        """It answers nobody until it is woken."""
        assert self.server is not None
        self.server.send(signal.SIGSTOP)
        status = Path(f"/proc/{self.server.process.pid}/stat")
        until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T", "it sleeps")

    def wake(self) -> None:
        assert self.server is not None
        self.server.send(signal.SIGCONT)


class Cluster:
    """One replica, and any number of agents."""

    def __init__(self, l3_bytes: str = "4GiB") -> None:
        # Short: the path of a unix socket has 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="fw-"))
        (self.folder / "l3").mkdir()
        self.meta_address = f"127.0.0.1:{free_port()}"
        data = str(self.folder / "meta")
        subprocess.run(
            [
                *(binary(), "meta", "init", "--data-dir", data, "--peers", f"1={self.meta_address}"),
                *("--l3", f"posix:{self.folder}/l3", "--l3-bytes", l3_bytes),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        self.meta = Server(self.folder / "meta.log", "meta", "run", "--data-dir", data)
        self.agents: list[Agent] = []

    def agent(self, name: str, **configuration: Any) -> Agent:
        """A new one, with these fields of its configuration file."""
        file = self.folder / f"{name}.toml"
        values = {"arena_bytes": "128MiB"} | configuration
        fields = [f"{field} = {json.dumps(value)}" for field, value in values.items()]
        file.write_text("\n".join(["[node]", *fields, ""]))
        arguments = ("--config", str(file))
        self.agents.append(Agent(self, name, arguments))
        return self.agents[-1]

    def end(self) -> None:
        for agent in self.agents:
            agent.end()
        self.meta.end()
        shutil.rmtree(self.folder)


def spec(model: str, shard_bytes: list[int] | None = None, **fields: Any) -> dict[str, Any]:
    """A namespace of this model, with all fields."""
    shards = shard_bytes or [PAGE_BYTES]
    plain: dict[str, Any] = {
        "tenant": "default",
        "model": model,
        "revision": "static",
        "dtype": "bfloat16",
        "layout": "page_first",
        "storage_format": "raw",
        "page_tokens": 1,
        "layer_first": 0,
        "layer_count": 1,
        "cp_rank": 0,
        "cp_size": 1,
        "dcp_rank": 0,
        "dcp_size": 1,
        "tp_first": 0,
        "tp_count": len(shards),
        "tp_size": len(shards),
        "head_split": "even",
        "shard_bytes": shards,
        "pool": "kv",
        "draft_model": "",
        "draft_revision": "",
        "salt": b"",
    }
    return plain | fields


def opened(connection: _native.Connection, model: str, shard_bytes: list[int] | None = None) -> _native.Namespace:
    """A namespace that is open."""
    namespace = connection.namespace(spec(model, shard_bytes))
    assert namespace.wait_open(PATIENCE_S), namespace.state()
    return namespace


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


def pages(seed: object, count: int, page_bytes: int = PAGE_BYTES) -> bytearray:
    """Bytes of so many pages, the same for the same seed."""
    return bytearray(random.Random(str(seed)).randbytes(count * page_bytes))


def put(namespace: _native.Namespace, keys: list[str], content: bytearray, shard: int = 0) -> None:
    """Puts pages and waits until they are published."""
    places = _native.Places.buffer(content, len(content) // len(keys))
    outcomes = namespace.put(keys, shard, places, wait=True, timeout_ms=30_000)
    assert set(outcomes) <= {_native.OUT_PUBLISHED, _native.OUT_EXISTS}, (outcomes, namespace.state())
