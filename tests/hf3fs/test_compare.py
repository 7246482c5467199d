"""SGLang's own server and Foreword hear the same calls: status, body and content type must be the same, byte for byte.

Where Foreword means to answer otherwise, the call is in `differences.py` with the reason and with both answers."""

import random
import time
import unittest

import differences
from group import Foreword
from real import Sglang
from support import OPERATIONS, call

PAGES = 24
SEEDS = range(6)
STEPS = 120
# Foreword protects for 1 ms what a reader was told of and lets pages rest 2 ms; SGLang's server does neither. Before a
# reserve both have to be over: rest is defined in time, so there is nothing else to wait for.
REST_S = 0.03

KEYS = {"keys": ["a", "b"]}
PAIRS = {"keys": [["a", ""], ["b", "a"]]}
# What a rank may look like: numbers as pydantic reads them, and what it refuses.
RANKS = ["0", "+0", "-0", "00", "%200", "0%20", "0.0", "1.0", "1_0", "-1", "-01", "007", "1.5", "1e2", "0x1", "true", "None", "rank",
         "0;x", "1__0", "_1", "1_", "1.", ".0", "--1", "+-1", "1%2C0", "%C3%A9", "%D9%A3", "a%22b", "a%5Cb", "a%0Ab", "%7B%7D", "%25", "%",
         "%09%0B1%0C", "%C2%A01", "%E3%80%801", "1%C2%85", "1%00", "%FF", "1.0_0", "-%201", "1_0.0", "01.0", "1.0e0",
         "9223372036854775807", "-9223372036854775808"]
OTHER_PATHS = ["/", "/0", "/0/", "/exists", "/0/nothing", "/0/Exists", "//0/exists", "//exists", "/0//exists",
               "/0/exists/more/and/more", "/favicon.ico"]
POOLS = ["kv", "mamba", "indexer", "swa", "kv ", "KV", "it's", 'a"b', "é", "a/b", "0:kv"]


class Compare(unittest.TestCase):
    def test_both_servers_say_the_same(self):
        self.real, self.ours = Sglang(), None
        self.addCleanup(self.real.close)
        self.ours = Foreword(protection="1ms", write_rest="1ms")
        self.addCleanup(self.ours.close)
        self.calls = 0
        for part in (self.errors, self.ranks, self.pools, self.bodies, self.first_pages_and_evictions, self.sequences):
            with self.subTest(part.__name__):
                part()
        for difference in differences.ALL:
            with self.subTest(difference.name):
                self.differs(difference)
        self.assertGreater(self.calls, 1000)

    def same(self, method: str, path: str, body=b"", headers=None):
        """Calls both; the answer. AssertionError unless both say the same."""
        real = call(self.real.url(), method, path, body, headers)
        ours = call(self.ours.url(), method, path, body, headers)
        self.calls += 1
        self.assertEqual(real, ours, f"{method} {path} {str(body)[:300]}: SGLang's server, Foreword")
        self.assertEqual(real.headers.get("allow"), ours.headers.get("allow"), f"allow of {method} {path}")
        leads_to = [answer.headers.get("location", "").removeprefix(server.url())
                    for answer, server in ((real, self.real), (ours, self.ours))]
        self.assertEqual(*leads_to, f"location of {method} {path}")
        return real

    def errors(self):
        """Nothing is initialised yet; unknown paths; wrong methods."""
        for operation in OPERATIONS:
            path = f"/3/{operation}"
            if operation != "initialize":
                fields = PAIRS if operation.startswith("reserve") else KEYS
                self.assertEqual(self.same("POST", path, {**fields, "namespace": "mamba"}).status, 404)
                self.assertEqual(self.same("POST", path, fields).status, 404)
            for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
                self.assertEqual(self.same(method, path).status, 405)
            self.assertEqual(self.same("POST", f"/three/{operation}", {}).status, 422)
            self.assertEqual(self.same("POST", f"/three/{operation}", b"{").status, 422)
        for path in OTHER_PATHS:
            self.assertEqual(self.same("POST", path, KEYS).status, 404)
            self.assertEqual(self.same("GET", path).status, 404)
        for path in ("/0/exists/", "/zero/clear/", "/0/exists/?x=1"):
            self.assertEqual(self.same("POST", path, KEYS).status, 307)
            self.assertEqual(self.same("GET", path).status, 307)

    def ranks(self):
        self.same("POST", "/0/initialize", {"num_pages": 4})
        for rank in RANKS:
            self.same("POST", f"/{rank}/exists", KEYS)
            self.same("POST", f"/{rank}/reserve_and_allocate_page_indices", {"keys": []})
        self.assertEqual(self.same("POST", "/-7/initialize", {"num_pages": 4}).status, 204)
        self.assertEqual(self.same("POST", "/-7/exists", KEYS).status, 200)

    def pools(self):
        """Pools of a rank are apart, `kv` is the one that is not named, an initialize of what is there changes nothing."""
        for at, pool in enumerate(POOLS):
            self.assertEqual(self.same("POST", "/10/exists", {**KEYS, "namespace": pool}).status, 404)
            for _ in range(2):
                self.assertEqual(self.same("POST", "/10/initialize", {"num_pages": 8, "namespace": pool}).status, 204)
            key = f"key of {pool}"
            (_, page), = self.same("POST", "/10/reserve_and_allocate_page_indices",
                                   {"keys": [[key, ""]], "namespace": pool}).json()["indices"]
            self.same("POST", "/10/confirm_write", {"written_keys_to_confirm": [[key, page]], "namespace": pool})
            self.same("POST", "/10/initialize", {"num_pages": 8, "namespace": pool})
            for other in POOLS[:at + 1]:
                self.same("POST", "/10/exists", {"keys": [f"key of {one}" for one in POOLS], "namespace": other})
        self.same("POST", "/10/get_page_indices", {"keys": ["key of kv"]})

    def bodies(self):
        """What a body may be like. Nothing is confirmed in rank 20."""
        self.same("POST", "/20/initialize", {"num_pages": 8})
        reserve = "/20/reserve_and_allocate_page_indices"
        for path, body in [
            ("/20/exists", {"keys": []}),
            ("/20/exists", {"keys": ["a", "a", "", "\u00e9\U0001f600", " ", "x" * 1000, "\x00\n\""]}),
            ("/20/exists", {"keys": ["a"], "unknown": {"field": [1, None]}}),
            ("/20/exists", b' {"keys" : [ "a" ] }\n'),
            ("/20/exists", b'{"keys":["a"],"keys":["b","c"]}'),
            ("/20/exists", b'{"keys":["\\u0041\\ud83d\\ude00"]}'),
            ("/20/exists", {"keys": [f"{number:064x}" for number in range(2048)]}),
            (reserve, {"keys": []}),
            (reserve, {"keys": [["a", None]]}),
            ("/20/confirm_write", {}),
            ("/20/confirm_write", {"written_keys_to_confirm": []}),
            ("/20/confirm_write", {"pages_to_release": []}),
            ("/20/get_page_indices", {"keys": []}),
            ("/20/get_page_indices", {"keys": ["nothing", "of", "it"]}),
            ("/20/delete_keys", {"keys": []}),
            ("/20/delete_keys", {"keys": ["nothing", "of", "it"]}),
            ("/20/clear", {}),
            ("/20/clear", {"unknown": 1}),
        ]:
            answer = self.same("POST", path, body)
            self.assertIn(answer.status, (200, 204), f"{path} {str(body)[:200]}")
        for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/json; charset=utf-8"}):
            self.assertEqual(self.same("POST", "/20/exists", KEYS, headers).status, 200)
        self.assertEqual(self.same("POST", "/20/exists?namespace=mamba&x=1", KEYS).status, 200)

    def first_pages_and_evictions(self):
        """Pages are given from the end of the file downwards; when it is full, the least recently used page goes."""
        path = "/30/"
        self.same("POST", path + "initialize", {"num_pages": 4})
        for at, key in enumerate("abcd"):
            answer = self.same("POST", path + "reserve_and_allocate_page_indices", {"keys": [[key, ""]]})
            self.assertEqual(answer.json()["indices"], [[False, 3 - at]])
            self.same("POST", path + "confirm_write", {"written_keys_to_confirm": [[key, 3 - at]]})
        # a: read; b: reserved again; so c and then d are the next to go.
        self.same("POST", path + "get_page_indices", {"keys": ["a"]})
        self.same("POST", path + "reserve_and_allocate_page_indices", {"keys": [["b", ""]]})
        self.same("POST", path + "exists", {"keys": ["c"]})  # is no use of it
        self.same("POST", path + "confirm_write", {})  # see until_used
        for key, page in (("e", 1), ("f", 0)):
            self.until_rested()
            answer = self.same("POST", path + "reserve_and_allocate_page_indices", {"keys": [[key, ""]]})
            self.assertEqual(answer.json()["indices"], [[False, page]])
            self.same("POST", path + "exists", {"keys": list("abcdef")})
            self.same("POST", path + "confirm_write", {"written_keys_to_confirm": [[key, page]]})
        self.same("POST", path + "get_page_indices", {"keys": list("abef")})

    def sequences(self):
        for seed in SEEDS:
            pool = ("kv", "mamba")[seed % 2]
            try:
                Sequence(self, 100 + seed, pool, random.Random(seed)).run(STEPS)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, pool {pool}: {error}") from error

    def until_rested(self):
        over_s = time.monotonic() + REST_S
        while time.monotonic() < over_s:
            time.sleep(REST_S / 3)

    def differs(self, difference):
        """Both sides must answer as the list says: a difference that is gone has to leave the list."""
        answers = {}
        for side, server in (("real", self.real), ("ours", self.ours)):
            for method, path, body in difference.before:
                call(server.url(), method, path, body)
            answers[side] = call(server.url(), difference.method, difference.path, difference.body)
            difference.check(side, answers[side])
        self.assertNotEqual(answers["real"], answers["ours"], f"no difference any more: {difference.why}")


class Sequence:
    """Random calls on one rank and pool, of which both servers must make the same.

    After the first page was given back, pages have other numbers on the two sides (SGLang's server gives out what came
    back last, Foreword what has rested longest): from then on a page is compared by whose it is."""

    def __init__(self, test: Compare, rank: int, pool: str, rng: random.Random):
        self.test, self.path, self.pool, self.rng = test, f"/{rank}/", pool, rng
        self.confirmed, self.reserved = {}, {}  # key -> (page there, page here)
        self.rested = True
        test.same("POST", self.path + "initialize", {"num_pages": PAGES, "namespace": pool})

    def run(self, steps: int) -> None:
        actions = [self.reserve] * 5 + [self.confirm] * 5 + [self.get] * 3 + [self.exists] * 2 + [self.delete, self.clear]
        for _ in range(steps):
            self.rng.choice(actions)()
        self.confirm()
        self.exists(list(map(str, range(2 * PAGES))))

    def both(self, operation: str, real: dict, ours: dict):
        """The two answers; they have the same status and type."""
        answers = []
        for server, fields in ((self.test.real, real), (self.test.ours, ours)):
            answers.append(call(server.url(), "POST", self.path + operation, {**fields, "namespace": self.pool}))
        self.test.calls += 1
        one, other = answers
        self.test.assertEqual((one.status, one.kind), (other.status, other.kind), f"{operation} {real}: {one} {other}")
        return answers

    def some_keys(self, count_max: int) -> list:
        return self.rng.sample([str(number) for number in range(2 * PAGES)], self.rng.randint(1, count_max))

    def reserve(self):
        """Never a key that is reserved, and never more than there is: the two differ there, see differences.py."""
        keys = [key for key in self.some_keys(8) if key not in self.reserved]
        if len(keys) + len(self.reserved) > PAGES - 1:
            return
        if not self.rested:
            self.test.until_rested()
            self.rested = True
        self.until_used()
        fields = {"keys": [[key, ""] for key in keys]}
        one, other = self.both("reserve_and_allocate_page_indices", fields, fields)
        real, ours = one.json()["indices"], other.json()["indices"]
        said = f"reserve {keys}: {real} {ours}"
        self.test.assertEqual([known for known, _ in real], [known for known, _ in ours], said)
        for key, (known, there), (_, here) in zip(keys, real, ours):
            if known:
                self.test.assertEqual(self.confirmed[key], (there, here), said)
            else:
                self.forget(there, here, said)
                self.reserved[key] = (there, here)

    def until_used(self):
        """Foreword's leader tells the group with the next change which pages were used, or after a second. Until then they
        count as they did before when pages are taken away: far shorter than any protection but this test's."""
        fields = {"written_keys_to_confirm": [], "pages_to_release": []}
        self.both("confirm_write", fields, fields)

    def forget(self, there: int, here: int, said: str):
        """A page was given away: both sides must have taken it from the same key, or from nobody."""
        from_there = [key for key, pages in self.confirmed.items() if pages[0] == there]
        from_here = [key for key, pages in self.confirmed.items() if pages[1] == here]
        self.test.assertEqual(from_there, from_here, said + f", confirmed: {self.confirmed}")
        for key in from_there:
            del self.confirmed[key]
        self.test.assertNotIn(here, [page for _, page in self.reserved.values()], said)

    def confirm(self):
        """Some of what is reserved was written, some was not."""
        done = [key for key in self.reserved if self.rng.random() < 0.7]
        self.rng.shuffle(done)
        written = [key for key in done if self.rng.random() < 0.8]
        released = [key for key in done if key not in written]
        sides = []
        for side in (0, 1):
            sides.append({
                "written_keys_to_confirm": [[key, self.reserved[key][side]] for key in written],
                "pages_to_release": [self.reserved[key][side] for key in released],
            })
        one, other = self.both("confirm_write", *sides)
        self.test.assertEqual(one.body, other.body)
        self.rested = self.rested and not released
        for key in written:
            self.confirmed[key] = self.reserved[key]
        for key in done:
            del self.reserved[key]

    def get(self):
        """In the pool `kv` never with a hole: see differences.py."""
        keys = self.some_keys(8)
        if self.pool == "kv":
            keys = [key for key in keys if key in self.confirmed] or [key for key in keys if key not in self.confirmed]
        one, other = self.both("get_page_indices", {"keys": keys}, {"keys": keys})
        expected = [self.confirmed.get(key, (None, None)) for key in keys]
        self.test.assertEqual(one.json(), {"indices": [there for there, _ in expected]})
        self.test.assertEqual(other.json(), {"indices": [here for _, here in expected]})
        self.rested = False

    def exists(self, keys=None):
        keys = keys or self.some_keys(2 * PAGES)
        answer = self.test.same("POST", self.path + "exists", {"keys": keys, "namespace": self.pool})
        self.test.assertEqual(answer.json()["exists"], [key in self.confirmed for key in keys])

    def delete(self):
        """Keys that are confirmed, reserved or unknown; some twice."""
        keys = self.some_keys(5)
        self.test.same("POST", self.path + "delete_keys", {"keys": keys + keys[:1], "namespace": self.pool})
        for key in keys:
            self.confirmed.pop(key, None)
        self.rested = False

    def clear(self):
        """Reservations end with it: who holds one says nothing of it any more."""
        if self.rng.random() < 0.7:
            return
        self.test.same("POST", self.path + "clear", {"namespace": self.pool})
        self.confirmed, self.reserved, self.rested = {}, {}, False
