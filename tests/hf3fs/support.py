"""What the tests share: bounded waiting, plain HTTP calls, and the base of a test that has a server."""

import http.client
import json
import os
import tempfile
import time
import urllib.parse

WAIT_S = 60.0
CALL_TIMEOUT_S = 60.0
OPERATIONS = (
    "initialize",
    "exists",
    "reserve_and_allocate_page_indices",
    "confirm_write",
    "delete_keys",
    "clear",
    "get_page_indices",
)
_settings = {}


def configure(**settings) -> None:
    """Called once by run.py: `foreword` (the binary), `work_dir` (everything is made below it), `nursery`."""
    _settings.update(settings)


def setting(name: str):
    return _settings[name]


def new_dir(prefix: str) -> str:
    return tempfile.mkdtemp(prefix=prefix, dir=_settings["work_dir"])


def tail(path: str) -> str:
    """The end of a log, for a message."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4000))
            return file.read().decode(errors="replace")
    except OSError as error:
        return str(error)


def wait_until(condition, what: str, timeout_s: float = WAIT_S):
    """Polls until `condition()` is true and gives its value; AssertionError at the deadline."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)


class Answer:
    """What a server said: `status`, `kind` (its content type) and `body` (bytes)."""

    def __init__(self, status: int, kind, body: bytes, headers: dict):
        self.status, self.kind, self.body, self.headers = status, kind, body, headers

    def json(self):
        return json.loads(self.body)

    def __eq__(self, other):
        return (self.status, self.kind, self.body) == (other.status, other.kind, other.body)

    def __repr__(self):
        return f"{self.status} {self.kind} {self.body[:400]!r}"


def call(url: str, method: str, path: str, body=b"", headers=None) -> Answer:
    """One request on a connection of its own. `body`: bytes, or what is sent as JSON; `path`: after the URL's, as it is."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=CALL_TIMEOUT_S)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, parts.path.rstrip("/") + path, data or None, headers or {})
        response = connection.getresponse()
        # As a reader of the wire sees it; HEAD has no body.
        known = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, known.get("content-type"), response.read(), known)
    finally:
        connection.close()


class Caller:
    """Plain calls of one rank and pool: the statuses are the caller's business."""

    def __init__(self, url: str, rank: int = 0, pool: str = "kv"):
        self.url, self.rank, self.pool = url, rank, pool

    def post(self, operation: str, **fields) -> Answer:
        return call(self.url, "POST", f"/{self.rank}/{operation}", {**fields, "namespace": self.pool})

    def initialize(self, pages: int) -> Answer:
        return self.post("initialize", num_pages=pages)

    def reserve(self, keys: list) -> list:
        """[written before, page index] for each key. AssertionError for an answer other than 200."""
        answer = self.post("reserve_and_allocate_page_indices", keys=[[key, ""] for key in keys])
        assert answer.status == 200, f"reserve of {len(keys)} keys: HTTP {answer.status}"
        return answer.json()["indices"]

    def confirm(self, written: list, released: list = ()) -> Answer:
        return self.post("confirm_write", written_keys_to_confirm=written, pages_to_release=list(released))

    def write(self, keys: list) -> list:
        """Reserves and confirms: the page of each key."""
        pages = [page for _, page in self.reserve(keys)]
        assert -1 not in pages, f"no page for all of {keys}: {pages}"
        answer = self.confirm([[key, page] for key, page in zip(keys, pages)])
        assert answer.status == 204, f"confirm: {answer}"
        return pages

    def get(self, keys: list) -> list:
        answer = self.post("get_page_indices", keys=keys)
        assert answer.status == 200, f"get: {answer}"
        return answer.json()["indices"]

    def exists(self, keys: list) -> list:
        answer = self.post("exists", keys=keys)
        assert answer.status == 200, f"exists: {answer}"
        return answer.json()["exists"]
