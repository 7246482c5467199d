"""A metadata group of real `foreword meta` processes on this machine, serving SGLang's hf3fs metadata clients."""

import itertools
import json
import os
import random
import select
import shutil
import socket
import subprocess
import time

from support import call, new_dir, setting, tail, wait_until, WAIT_S

# A port of a replica is drawn below the range for outgoing connections: while the replica is down, no connection of
# another process gets it.
PORT_MIN, PORT_END = 10_240, 32_768
LAYOUTS_MAX = 5


class PortTaken(Exception):
    """Somebody bound a drawn port before the replica did."""


class Foreword:
    """A group of `replicas`, ready to serve. `url()` is what an engine's `metadata_server_url` would be.

    `protection`, `reservation`, `write_rest`: as the flags take them."""

    name = "Foreword"

    def __init__(self, replicas: int = 1, protection="30s", reservation="2m", write_rest="1ms"):
        self.options = [f"--hf3fs-reservation={reservation}"]
        self._settings = [f"--hf3fs-protection={protection}", f"--write-rest={write_rest}"]
        self._models = itertools.count(1)
        for left in reversed(range(LAYOUTS_MAX)):
            self._dir, self._children, self._announced = new_dir("group-"), {}, {}
            try:
                self._lay_out(replicas)
                for replica in self._ports:
                    self.start(replica)
                self.wait_ready()
                return
            except PortTaken:
                self.close()
                if not left:
                    raise
            except BaseException:
                self.close()
                raise

    def _lay_out(self, replicas: int) -> None:
        drawn = _draw_ports(2 * replicas)
        self._ports = {replica: drawn[2 * replica - 2:2 * replica] for replica in range(1, replicas + 1)}
        command = [setting("foreword"), "meta", "init", "--json", *self._settings]
        command.append("--peers=" + ",".join(f"{replica}=127.0.0.1:{grpc}" for replica, (grpc, _) in self._ports.items()))
        for replica in self._ports:
            command.append("--data-dir=" + self._data_dir(replica))
        l3 = os.path.join(self._dir, "l3")
        os.mkdir(l3)
        command += [f"--l3=posix:{l3}", "--l3-bytes=64MiB"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, f"foreword meta init: {done.stderr}"

    def _data_dir(self, replica: int) -> str:
        return os.path.join(self._dir, f"meta-{replica}")

    def _log(self, replica: int) -> str:
        return os.path.join(self._dir, f"meta-{replica}.log")

    def start(self, replica: int) -> None:
        """Starts a replica that is down, at its addresses; returns when it listens. From the main thread only: a child
        dies with the thread that started it."""
        assert replica not in self._children
        grpc, hf3fs = self._ports[replica]
        command = [setting("foreword"), "meta", "run", f"--data-dir={self._data_dir(replica)}", "--json"]
        command += [f"--listen=127.0.0.1:{grpc}", "--http=127.0.0.1:0", f"--hf3fs=127.0.0.1:{hf3fs}", *self.options]
        command.append(f"--die-with-parent={os.getpid()}")
        with open(self._log(replica), "ab") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        self._children[replica] = child
        self._announced[replica] = self._first_line(replica, child)

    def _first_line(self, replica: int, child) -> dict:
        text, deadline_s = b"", time.monotonic() + WAIT_S
        while b"\n" not in text:
            if not select.select([child.stdout], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
                raise AssertionError(f"replica {replica} said nothing within {WAIT_S} s: {tail(self._log(replica))}")
            part = os.read(child.stdout.fileno(), 4096)
            if not part:
                said = tail(self._log(replica))
                if "in use" in said:
                    raise PortTaken(said)
                raise AssertionError(f"replica {replica} ended at its start: {said}")
            text += part
        return json.loads(text.splitlines()[0])

    def wait_ready(self) -> None:
        """Returns when every replica that runs has a leader and has applied what was committed."""
        for replica in list(self._children):
            wait_until(lambda: self._http(replica, "/readyz") is not None, f"replica {replica} is ready: {self}")

    def _http(self, replica: int, path: str):
        """The body of an answer 200; None for another, and where nobody answers."""
        child = self._children[replica]
        assert child.poll() is None, f"replica {replica} has ended: {tail(self._log(replica))}"
        try:
            answer = call(f"http://{self._announced[replica]['http']}", "GET", path)
        except OSError:
            return None
        return answer.body if answer.status == 200 else None

    def status(self, replica: int = 0) -> dict:
        """/status of a replica; of the leader without one."""
        replica = replica or self.leader()
        return json.loads(wait_until(lambda: self._http(replica, "/status"), f"replica {replica} says its status"))

    def leader(self) -> int:
        """The replica that leads by its own word; the one of the highest term if two say so."""

        def find():
            said = [json.loads(body) for one in list(self._children) if (body := self._http(one, "/status"))]
            leading = [status for status in said if status["role"] == "leader"]
            return max(leading, key=lambda status: status["term"])["replica_id"] if leading else 0

        return wait_until(find, "a replica leads")

    def replicas(self) -> list:
        """Those that run."""
        return sorted(self._children)

    def followers(self) -> list:
        leader = self.leader()
        return [replica for replica in self._children if replica != leader]

    def url(self, deployment: str = "", replica: int = 0) -> str:
        """The base URL for a deployment, at one replica: the first that runs, without one."""
        replica = replica or min(self._children)
        base = f"http://{self._announced[replica]['hf3fs']}"
        return f"{base}/{deployment}" if deployment else base

    def urls_of_models(self, count: int) -> list:
        """What engines of so many models, unknown until now, are configured with."""
        return [self.url(f"model-{next(self._models)}") for _ in range(count)]

    def import_saved(self, path: str, deployment: str):
        """`foreword import-hf3fs`, through any replica."""
        meta = ",".join(f"127.0.0.1:{grpc}" for grpc, _ in self._ports.values())
        command = [setting("foreword"), "import-hf3fs", path, "--json", f"--meta={meta}", f"--deployment={deployment}"]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def kill(self, replica: int) -> None:
        """SIGKILL; returns when it is dead. From any thread."""
        child = self._children.pop(replica)
        child.kill()
        child.wait()
        child.stdout.close()

    def kill_all(self) -> None:
        for child in self._children.values():
            child.kill()
        for replica in list(self._children):
            self.kill(replica)

    def kill_and_restart(self) -> None:
        """SIGKILL for all replicas at once, and all of them again: what a power cut of the whole group is to memory."""
        self.kill_all()
        for replica in self._ports:
            self.start(replica)
        self.wait_ready()

    def close(self) -> None:
        self.kill_all()
        shutil.rmtree(self._dir, ignore_errors=True)

    def __repr__(self):
        logs = {replica: tail(self._log(replica)) for replica in self._children}
        return f"Foreword in {self._dir}, logs: {logs}"


def _draw_ports(count: int) -> list:
    """Different free ports of 127.0.0.1."""
    held = {}
    while len(held) < count:
        port = random.SystemRandom().randrange(PORT_MIN, PORT_END)
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.bind(("127.0.0.1", port))
            held[port] = listener  # until all are drawn, so that they differ
        except OSError:
            listener.close()
    for listener in held.values():
        listener.close()
    return list(held)
