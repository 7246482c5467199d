"""Every endpoint of Foreword's hf3fs port, asked with plain HTTP calls of the standard library: no SGLang is needed."""

import http.client
import json
import os
import unittest
import urllib.parse

from group import Foreword
from support import OPERATIONS, Caller, call, new_dir

RESERVE = "reserve_and_allocate_page_indices"


class Plain(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.group = Foreword(replicas=3)
        cls.addClassCleanup(cls.group.close)

    def test_a_page_from_reserve_to_clear(self):
        for replica in self.group.replicas():
            for deployment in ("", "Model_1.x-y"):
                with self.subTest(replica=replica, deployment=deployment):
                    self.whole_life(Caller(self.group.url(deployment, replica), rank=replica))

    def whole_life(self, caller: Caller):
        for _ in range(2):
            answer = caller.initialize(8)
            self.assertEqual((answer.status, answer.kind, answer.body), (204, None, b""))
        self.assertEqual(caller.reserve(["a", "b", "b"]), [[False, 7], [False, 6], [False, 6]])
        self.assertEqual(caller.exists(["a", "b"]), [False, False])
        answer = caller.confirm([["a", 7]], [6])
        self.assertEqual((answer.status, answer.kind, answer.body), (204, None, b""))
        self.assertEqual(caller.exists(["a", "b"]), [True, False])
        self.assertEqual((caller.get(["a"]), caller.get(["b"])), ([7], [None]))
        self.assertEqual(caller.reserve(["a"]), [[True, 7]])
        exists = caller.post("exists", keys=["a"])
        self.assertEqual((exists.kind, exists.body), ("application/json", b'{"exists":[true]}'))
        self.assertEqual(caller.post("delete_keys", keys=["a", "x"]).status, 204)
        self.assertEqual(caller.exists(["a"]), [False])
        caller.write(["c"])
        self.assertEqual(caller.post("clear").status, 204)
        self.assertEqual(caller.exists(["c"]), [False])
        self.assertEqual(caller.initialize(9).status, 409)

    def test_what_is_confirmed_at_one_replica_is_seen_at_all(self):
        Caller(self.group.url("seen"), 0).initialize(64)
        for replica in self.group.replicas():
            writer = Caller(self.group.url("seen", replica), 0)
            keys = [f"key {replica}.{number}" for number in range(8)]
            pages = writer.write(keys)
            self.assertEqual(writer.exists(keys), [True] * 8, "by the replica that confirmed it, at once")
            for other in self.group.replicas():
                self.assertEqual(Caller(self.group.url("seen", other), 0).get(keys), pages)

    def test_what_sglangs_server_saved_is_taken_over(self):
        saved = {"num_pages": 8, "free_pages": [0], "key_to_index": [["old", 3], ["new", 5], ["one", 6], ["two", 6]]}
        path = os.path.join(new_dir("saved-"), "metadata.json")
        with open(path, "w") as out:
            json.dump({"2:kv": saved, "0": {"num_pages": 1, "free_pages": [], "key_to_index": []}}, out, indent=4)
        for _ in range(2):
            done = self.group.import_saved(path, "taken-over")
            self.assertEqual(done.returncode, 0, done.stderr)
            files = {file["rank"]: file for file in json.loads(done.stdout)["files"]}
            self.assertEqual({name: files[2][name] for name in ("imported", "left_out", "leaked", "conflicts")},
                             {"imported": 2, "left_out": 2, "leaked": 4, "conflicts": 0})
            self.assertEqual(files[0]["num_pages"], 1)
        caller = Caller(self.group.url("taken-over"), 2)
        self.assertEqual(caller.initialize(8).status, 204)
        self.assertEqual(caller.get(["old", "new"]), [3, 5])
        self.assertEqual(caller.exists(["one", "two"]), [False, False], "a page that two claim is nobody's")
        self.assertEqual(caller.initialize(9).status, 409)
        with open(path, "w") as out:
            json.dump({"2:kv": {**saved, "key_to_index": [["old", 8]]}}, out)
        refused = self.group.import_saved(path, "taken-over")
        self.assertEqual(refused.returncode, 2)
        self.assertIn("2:kv.key_to_index[0]", refused.stderr)

    def test_errors(self):
        for replica in self.group.replicas():
            url = self.group.url(replica=replica)
            for operation in OPERATIONS:
                if operation != "initialize":
                    answer = call(url, "POST", f"/77/{operation}", {"keys": []})
                    said = "Rank 77 namespace 'kv' not initialized. Please call /77/initialize first."
                    self.assertEqual((answer.status, answer.json()), (404, {"detail": said}), operation)
                answer = call(url, "POST", f"/rank/{operation}", {})
                self.assertEqual((answer.status, answer.json()["detail"][0]["type"]), (422, "int_parsing"), operation)
                answer = call(url, "GET", f"/77/{operation}")
                self.assertEqual((answer.status, answer.json()), (405, {"detail": "Method Not Allowed"}), operation)
                answer = call(url, "POST", f"/0/{operation}", b"{")
                self.assertEqual(answer.status, 422, f"{operation}: {answer}")
            for path in ("/", "/0", "/0/unknown", "/a/b/0/exists"):
                answer = call(url, "POST", path, {"keys": []})
                self.assertEqual((answer.status, answer.json()), (404, {"detail": "Not Found"}), path)
            for deployment in ("bad%20name", "..", "x" * 65):
                answer = call(url, "POST", f"/{deployment}/0/exists", {"keys": []})
                self.assertEqual(answer.status, 422, deployment)
                self.assertRegex(answer.json()["detail"], "^deployment: expected .*, got ")

    def test_one_connection_serves_many_calls(self):
        Caller(self.group.url("kept"), 0).initialize(8)
        parts = urllib.parse.urlsplit(self.group.url("kept"))
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self.addCleanup(connection.close)
        connection.connect()
        socket = connection.sock
        for body, status in [(b'{"keys":["a"]}', 200), (b"{", 422), (b'{"keys":["a"]}', 200)] * 20:
            connection.request("POST", "/kept/0/exists", body)
            response = connection.getresponse()
            response.read()
            self.assertEqual(response.status, status)
        self.assertIs(connection.sock, socket, "the server has closed the connection")

    def test_status_counts_pages(self):
        caller = Caller(self.group.url("counted"), 3, "mamba")
        caller.initialize(8)
        caller.write(["a", "b"])
        caller.reserve(["c"])
        caller.confirm([["nobody's", 1]], [0])
        caller.get(["a"])
        hf3fs = self.group.status()["hf3fs"]
        self.assertEqual((hf3fs["protection_ms"], hf3fs["reservation_ms"]), (30_000, 120_000))
        self.assertGreaterEqual(hf3fs["protected_pages"], 1)
        (file,) = [file for file in hf3fs["files"] if file["deployment"] == "counted"]
        expected = {"rank": 3, "pool": "mamba", "pages": 8, "confirmed": 2, "reserved": 1, "unused": 5, "resting": 0, "evicted": 0,
                    "expired": 0, "no_page": 0, "ignored_confirms": 1, "ignored_releases": 1}
        self.assertEqual({name: file[name] for name in expected}, expected)

    def test_no_page_is_counted(self):
        caller = Caller(self.group.url("full"), 0)
        caller.initialize(1)
        self.assertEqual(caller.reserve(["a", "b"]), [[False, 0], [False, -1]])
        (file,) = [file for file in self.group.status()["hf3fs"]["files"] if file["deployment"] == "full"]
        self.assertEqual(file["no_page"], 1)
