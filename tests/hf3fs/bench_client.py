#!/usr/bin/env python3
"""SGLang's own Hf3fsGlobalMetadataClient as load on a metadata server: a process for each client, forked from a warm one.

    VENV/bin/python tests/hf3fs/bench_client.py URL --op exists|reserve_confirm [--keys N] [--clients C] [--seconds S]

makes the page file of rank 0 with the keys that `exists` asks for, and prints one line of JSON: calls, seconds, calls_per_s,
p50_ms, p99_ms, max_ms. A reserve and its confirm count as one call. Without arguments it is a tool of cli/examples/hf3fs: it
reads a line {"keys": […]} with keys that are there, then a line {"url", "operation", "keys", "clients", "seconds"} a
measurement, and answers each with {"calls_per_s", "latencies_ms"}.
"""

import argparse
import array
import json
import os
import sys
import time
import traceback

from sglang_server import import_client

PRESENT_KEYS = 10_000
STRIDE = 7919  # so that clients and calls ask for different keys
RANK = 0


def main() -> None:
    arguments = parse()
    began_s = time.monotonic()
    import_client()
    print(f"imported in {time.monotonic() - began_s:.1f} s", file=sys.stderr)
    if arguments.url is None:
        answer_stdin()
        return
    present = [f"{number:064x}-k" for number in range(PRESENT_KEYS)]
    prepare(arguments.url, present, arguments.pages)
    took_s, latencies = measure(arguments.url, arguments.op, present, arguments.keys, arguments.clients, arguments.seconds)
    latencies.sort()
    print(json.dumps({
        "calls": len(latencies),
        "seconds": round(took_s, 3),
        "calls_per_s": round(len(latencies) / took_s, 1),
        "p50_ms": quantile_ms(latencies, 0.5),
        "p99_ms": quantile_ms(latencies, 0.99),
        "max_ms": quantile_ms(latencies, 1.0),
    }), flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?")
    parser.add_argument("--op", choices=["exists", "reserve_confirm"], default="exists")
    parser.add_argument("--keys", type=int, default=256, help="keys of one call")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pages", type=int, default=1_000_000, help="of the page file")
    return parser.parse_args()


def answer_stdin() -> None:
    present = json.loads(sys.stdin.readline())["keys"]
    for line in sys.stdin:
        asked = json.loads(line)
        took_s, latencies = measure(asked["url"], asked["operation"], present, asked["keys"], asked["clients"], asked["seconds"])
        answer = {"calls_per_s": len(latencies) / took_s, "latencies_ms": [round(one * 1e3, 4) for one in latencies]}
        print(json.dumps(answer), flush=True)


def new_client(url: str):
    from sglang.srt.mem_cache.storage.hf3fs.mini_3fs_metadata_server import Hf3fsGlobalMetadataClient

    return Hf3fsGlobalMetadataClient(url)


def prepare(url: str, present: list, pages: int) -> None:
    client = new_client(url)
    client.initialize(RANK, pages)
    for at in range(0, len(present), 1000):
        reserve_confirm(client, present[at:at + 1000])


def reserve_confirm(client, keys: list) -> None:
    indices = client.reserve_and_allocate_page_indices(RANK, [(key, "") for key in keys])
    if any(page < 0 for _, page in indices):
        raise RuntimeError("the page file is full: more pages")
    client.confirm_write(RANK, [(key, page) for key, (_, page) in zip(keys, indices)], [])


def measure(url: str, operation: str, present: list, keys: int, clients: int, seconds: float) -> tuple:
    """(seconds that it took, seconds of each call), of all clients together."""
    children = [Child(lambda number=number: load(url, operation, present, keys, number, seconds)) for number in range(clients)]
    for child in children:
        child.wait_ready()
    began_s = time.monotonic()
    for child in children:
        child.go()
    latencies = [one for child in children for one in child.latencies()]
    return time.monotonic() - began_s, latencies


def load(url: str, operation: str, present: list, keys: int, number: int, seconds: float):
    """A generator: first it is ready, then it has the seconds of each call."""
    client = new_client(url)
    client.exists(RANK, present[:1])  # connects
    yield None
    latencies, until_s = array.array("d"), time.monotonic() + seconds
    while True:
        began_s = time.monotonic()
        if began_s >= until_s:
            break
        if operation == "exists":
            first = (number * 64 + len(latencies) % 64) * STRIDE % len(present)
            asked = [present[(first + at) % len(present)] for at in range(keys)]
            began_s = time.monotonic()
            if not all(client.exists(RANK, asked)):
                raise RuntimeError("a key is missing")
        else:
            fresh = [f"{os.getpid()}-{began_s}-{at:050x}-k" for at in range(keys)]
            began_s = time.monotonic()
            reserve_confirm(client, fresh)
        latencies.append(time.monotonic() - began_s)
    yield latencies


class Child:
    """A forked client: it gets ready, waits for the word, and sends its latencies."""

    def __init__(self, work):
        from_child, to_parent = os.pipe()
        from_parent, to_child = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(to_child)
                steps = work()
                next(steps)
                os.write(to_parent, b"R")
                if os.read(from_parent, 1):
                    with os.fdopen(to_parent, "wb") as out:
                        out.write(next(steps).tobytes())
                    code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        os.close(to_parent)
        os.close(from_parent)
        self._from_child, self._to_child = os.fdopen(from_child, "rb"), to_child

    def wait_ready(self) -> None:
        if self._from_child.read(1) != b"R":
            raise SystemExit("a client could not start")

    def go(self) -> None:
        os.write(self._to_child, b"G")

    def latencies(self) -> array.array:
        data = self._from_child.read()
        os.close(self._to_child)
        self._from_child.close()
        if os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) != 0:
            raise SystemExit("a client has failed")
        found = array.array("d")
        found.frombytes(data)
        return found


def quantile_ms(ordered, quantile: float) -> float:
    if not ordered:
        return 0.0
    return round(ordered[round((len(ordered) - 1) * quantile)] * 1e3, 3)


if __name__ == "__main__":
    main()
