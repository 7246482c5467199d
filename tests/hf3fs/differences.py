"""Where Foreword means to answer otherwise than SGLang's server, and why. test_compare.py asks both for each of them.

What the list cannot show, as it is a matter of time: a page that was released, deleted or evicted rests before it goes to
another key, and a page that a reader was told of is protected. test_faults.py has those."""

import dataclasses
import json
import re

RESERVE = "reserve_and_allocate_page_indices"


@dataclasses.dataclass
class Difference:
    """One call, after the calls `before` it. `real` and `ours`: (status, expression that fits the whole body)."""

    name: str
    why: str
    path: str
    body: object
    real: tuple
    ours: tuple
    before: list = dataclasses.field(default_factory=list)
    method: str = "POST"

    def check(self, side: str, answer) -> None:
        status, expression = getattr(self, side)
        text = answer.body.decode()
        ok = answer.status == status and re.fullmatch(expression, text, re.DOTALL)
        assert ok, f"{self.name}, {side}: expected {status} {expression}, got {answer}"


def exactly(value) -> str:
    return re.escape(json.dumps(value, separators=(",", ":")))


def refused(field: str) -> tuple:
    return 422, r'\{"detail":"' + field + r': expected .*"\}'


BROKEN = (500, "Internal Server Error")
DONE = (204, "")
_ranks = iter(range(200, 1000))


def _file(pages: int) -> tuple:
    """A page file of its own: (its path, the call that makes it)."""
    path = f"/{next(_ranks)}/"
    return path, ("POST", path + "initialize", {"num_pages": pages})


def _malformed() -> list:
    """A body that is not what it should be: the client is told what was expected, and does not repeat it as it does a 500."""
    why = "422 names the field; SGLang's server breaks with 500, which its client sends four times"
    not_json = [b"", b"{", b"\xef\xbb\xbf{}", b"{} x"]
    not_text = [b'{"keys":["\xff"]}', b'{"keys":["\\ud800"]}']
    not_object = [b"null", b"[]", b"1", b'"keys"']
    keys = [{}, {"keys": None}, {"keys": [["a"]]}, {"keys": 1}]
    pairs = [{}, {"keys": None}, {"keys": ["abc"]}, {"keys": [["a"]]}, {"keys": [["a", "", ""]]}, {"keys": [1]}, {"keys": [[["a"], ""]]}]
    confirms = [{"written_keys_to_confirm": None}, {"written_keys_to_confirm": [["a"]]}, {"written_keys_to_confirm": [1]},
                {"written_keys_to_confirm": [[["a"], 1]]}]
    releases = [{"pages_to_release": None}, {"pages_to_release": 1}]
    path, made = _file(4)
    of_keys = ("exists", RESERVE, "get_page_indices", "delete_keys")
    cases = [(operation, body, "body") for operation in (*of_keys, "confirm_write", "clear") for body in not_json + not_object]
    cases += [(operation, body, "body") for operation in of_keys for body in not_text]
    cases += [(operation, body, "keys.*") for operation in of_keys if operation != RESERVE for body in keys]
    cases += [(RESERVE, body, "keys.*") for body in pairs]
    cases += [("confirm_write", body, "written_keys_to_confirm.*") for body in confirms]
    cases += [("confirm_write", body, "pages_to_release.*") for body in releases]
    found = [Difference(f"malformed {operation} {body!r}", why, path + operation, body, BROKEN, refused(field), [made])
             for operation, body, field in cases]
    cases = [(body, "body") for body in not_json + not_object]
    cases += [(body, "num_pages") for body in ({}, *({"num_pages": pages} for pages in ("4", [4], 1.5, None)))]
    found += [Difference(f"malformed initialize {body!r}", why, _file(4)[0] + "initialize", body, BROKEN, refused(field))
              for body, field in cases]
    return found


def _accepted_nonsense() -> list:
    """What SGLang's server takes and cannot mean anything."""
    why = "a call that its sender cannot have meant is refused, not half done"
    path, made = _file(4)
    cases = [("exists", {"keys": keys}, "keys.*", (200, ".*")) for keys in ("ab", [1], [None], {"a": 1})]
    cases += [("exists", {"keys": ["a"], "namespace": pool}, "namespace", (404, ".*")) for pool in (None, 5)]
    cases += [(RESERVE, {"keys": ["ab"]}, "keys.*", (200, ".*"))]
    cases += [("confirm_write", {"pages_to_release": ["x"]}, "pages_to_release.*", DONE)]
    cases += [("confirm_write", {"pages_to_release": "xy"}, "pages_to_release.*", DONE)]
    found = [Difference(f"nonsense {operation} {body}", why, path + operation, body, real, refused(field), [made])
             for operation, body, field, real in cases]
    for pages in (0, -1, True):
        body = {"num_pages": pages}
        found.append(Difference(f"nonsense initialize {body}", why, _file(4)[0] + "initialize", body, DONE, refused("num_pages")))
    return found


def _limits() -> list:
    why = "everything has a limit"
    path, made = _file(4)
    huge = str(1 << 63)
    long_pool = {"num_pages": 4, "namespace": "x" * 65}
    many = {"keys": ["a"] * 65_537}
    return [
        Difference("a rank beyond 64 bits", why, f"/{huge}/exists", {"keys": []}, (404, ".*"), (422, ".*rank.*")),
        Difference("a long key", why, path + "exists", {"keys": ["x" * 1025]}, (200, ".*"), refused("keys.*"), [made]),
        Difference("many keys", why, path + "exists", many, (200, ".*"), refused("keys"), [made]),
        Difference("a long pool", why, path + "initialize", long_pool, DONE, refused("namespace")),
        Difference("many pages", why, path + "initialize", {"num_pages": 1 << 62, "namespace": "n"}, BROKEN, refused("num_pages")),
        Difference("a long body", why, path + "exists", b'{"keys":[]' + b" " * (8 << 20) + b"}", (200, ".*"), (413, ".*"), [made]),
    ]


def _paths() -> list:
    path, made = _file(4)
    why = "a path before the rank names a deployment: models that share a server share no key"
    elsewhere = ("POST", "/deployment" + path + "initialize", {"num_pages": 4})
    unknown = (404, r'\{"detail":"Not Found"\}')
    return [
        Difference("a deployment", why, "/deployment" + path + "exists", {"keys": ["a"]}, unknown,
                   (200, exactly({"exists": [False]})), [made, elsewhere]),
        Difference("a deployment that is not initialised", why, "/nobody" + path + "exists", {"keys": ["a"]}, unknown,
                   (404, r'\{"detail":"Rank \d+ namespace \'kv\' not initialized\. Please call /nobody/\d+/initialize first\."\}'), [made]),
        Difference("a deployment before a slash in disguise", why, "/deployment%2Frank/exists", {"keys": ["a"]}, unknown,
                   (422, ".*int_parsing.*")),
        Difference("a deployment's wrong method", why, "/deployment" + path + "exists", b"", unknown,
                   (405, r'\{"detail":"Method Not Allowed"\}'), method="GET"),
        Difference("a page about itself", "FastAPI's own pages are no part of the protocol", "/docs", b"", (200, ".*"), unknown,
                   method="GET"),
    ]


def _ownership() -> list:
    """A page belongs to whom it was given, until it is confirmed, released, or its time is over."""
    found = []

    def add(name, why, pages, before, operation, body, real, ours):
        path, made = _file(pages)
        calls = [made, *(("POST", path + one, fields) for one, fields in before)]
        found.append(Difference(name, why, path + operation, body, (200, exactly(real)) if real else BROKEN, (200, exactly(ours)), calls))

    def reserve(*keys):
        return {"keys": [[key, ""] for key in keys]}

    add("nothing is free", "-1 is the client's word for it; a 500 is sent four times and then breaks the whole batch",
        2, [], RESERVE, reserve("a", "b", "c"), None, {"indices": [[False, 1], [False, 0], [False, -1]]})
    add("reserved again", "two writers of a key write the same bytes: one page for both, and none leaks",
        4, [(RESERVE, reserve("a"))], RESERVE, reserve("a"), {"indices": [[False, 2]]}, {"indices": [[False, 3]]})
    add("twice in a batch", "as reserved again",
        4, [], RESERVE, reserve("a", "a", "b"), {"indices": [[False, 3], [False, 2], [False, 1]]},
        {"indices": [[False, 3], [False, 3], [False, 2]]})
    add("confirmed without a reservation", "the page may be another's by now: the confirm is counted and ignored",
        4, [("confirm_write", {"written_keys_to_confirm": [["a", 1]]})], "exists", {"keys": ["a"]}, {"exists": [True]},
        {"exists": [False]})
    add("confirmed at another page", "as without a reservation",
        4, [(RESERVE, reserve("a")), ("confirm_write", {"written_keys_to_confirm": [["a", 2]]})], "exists", {"keys": ["a"]},
        {"exists": [True]}, {"exists": [False]})
    add("confirmed at a page beyond the file", "as without a reservation",
        4, [("confirm_write", {"written_keys_to_confirm": [["a", 99]]})], "exists", {"keys": ["a"]}, {"exists": [True]},
        {"exists": [False]})
    add("a page released that nobody reserved", "it is free already, or another's: the release is counted and ignored",
        1, [(RESERVE, reserve("a")), ("confirm_write", {"written_keys_to_confirm": [["a", 0]]}), ("confirm_write", {"pages_to_release": [0]}),
            (RESERVE, reserve("b")), ("confirm_write", {"written_keys_to_confirm": [["b", 0]]})],
        "exists", {"keys": ["a", "b"]}, {"exists": [True, True]}, {"exists": [False, True]})
    add("more new keys than the rest of the file", "a page that this very batch is told of is not given away in it",
        2, [(RESERVE, reserve("a")), ("confirm_write", {"written_keys_to_confirm": [["a", 1]]})],
        RESERVE, reserve("a", "b", "c"), {"indices": [[True, 1], [False, 0], [False, 1]]},
        {"indices": [[True, 1], [False, 0], [False, -1]]})
    return found


def _sizes() -> list:
    path, made = _file(4)
    return [Difference("another size", "pages beyond the file, or a file half used, are a mistake of the operator: say so", path + "initialize",
                       {"num_pages": 5}, DONE, (409, r'\{"detail":".*4.*5.*"\}|\{"detail":".*5.*4.*"\}'), [made])]


def _holes() -> list:
    """SGLang's client puts the pages behind a hole into the wrong buffers and takes them for read, or closes its file."""
    path, made = _file(4)
    written = {"written_keys_to_confirm": [["a", 3], ["c", 2]]}
    before = [made, ("POST", path + RESERVE, {"keys": [["a", ""], ["c", ""]]}), ("POST", path + "confirm_write", written)]
    return [Difference("a hole", "in the pool kv a read that misses a key is a miss: see faults.py", path + "get_page_indices",
                       {"keys": ["a", "b", "c"]}, (200, exactly({"indices": [3, None, 2]})), (200, exactly({"indices": [None] * 3})),
                       before)]


ALL = _malformed() + _accepted_nonsense() + _limits() + _paths() + _ownership() + _sizes() + _holes()
