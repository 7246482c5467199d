"""The leader dies by SIGKILL in the middle of what an engine does. The engine's URL is a replica that lives."""

import unittest

from engine import Engine
from group import Foreword
from sglang.srt.mem_cache.storage.hf3fs.mini_3fs_metadata_server import Hf3fsGlobalMetadataClient
from support import new_dir


class LeaderDies(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.group = Foreword(replicas=3)
        cls.addClassCleanup(cls.group.close)

    def setUp(self):
        self.follower = self.group.followers()[0]
        self.dead = []

    def tearDown(self):
        for replica in self.dead:
            self.group.start(replica)
        self.group.wait_ready()

    def kill_leader(self):
        leader = self.group.leader()
        self.assertNotEqual(leader, self.follower)
        self.group.kill(leader)
        self.dead.append(leader)

    def test_between_reserve_and_confirm(self):
        client = Hf3fsGlobalMetadataClient(self.group.url("reserve-confirm", self.follower))
        client.initialize(0, 64)
        keys = [f"key {number}" for number in range(32)]
        reserved = client.reserve_and_allocate_page_indices(0, [(key, "") for key in keys])
        pages = [page for _, page in reserved]
        self.kill_leader()
        client.confirm_write(0, list(zip(keys[:24], pages)), pages[24:])
        self.assertEqual(client.exists(0, keys), [True] * 24 + [False] * 8)
        self.assertEqual(client.get_page_indices(0, keys[:24]), pages[:24])
        # The client repeats what it does not know the end of.
        client.confirm_write(0, list(zip(keys[:24], pages)), pages[24:])
        self.assertEqual(client.get_page_indices(0, keys[:24]), pages[:24])

    def test_before_a_reserve_of_reserved_keys(self):
        """A reserve that is sent again gets the same pages from another leader."""
        client = Hf3fsGlobalMetadataClient(self.group.url("reserve-again", self.follower))
        client.initialize(0, 64)
        keys = [(f"key {number}", "") for number in range(32)]
        reserved = client.reserve_and_allocate_page_indices(0, keys)
        self.kill_leader()
        self.assertEqual(client.reserve_and_allocate_page_indices(0, keys), reserved)

    def test_before_a_get(self):
        client = Hf3fsGlobalMetadataClient(self.group.url("get", self.follower))
        client.initialize(0, 64)
        ((_, page),) = client.reserve_and_allocate_page_indices(0, [("a", "")])
        client.confirm_write(0, [("a", page)], [])
        self.kill_leader()
        self.assertEqual(client.get_page_indices(0, ["a"]), [page])
        self.assertEqual(client.get_page_indices(0, ["b"]), [None])

    def test_between_two_pages_of_a_batch(self):
        for kind in ("mla", "mha"):
            with self.subTest(kind=kind):
                self.tearDown()
                self.setUp()
                self.dies_in_batch(kind)

    def dies_in_batch(self, kind: str):
        dir, url = new_dir("engine-"), self.group.url(f"batch-{kind}", self.follower)
        writer = Engine(url, dir, kind=kind, entries=1)
        self.addCleanup(writer.close)
        (file_client,) = writer.storage.clients
        write, calls = file_client.batch_write, []

        def batch_write(offsets, tensors):
            calls.append(len(offsets))
            if len(calls) == 2:
                self.kill_leader()
            return write(offsets, tensors)

        file_client.batch_write = batch_write
        keys = [f"page {number}" for number in range(8)]
        self.assertTrue(all(writer.set(keys)))
        self.assertEqual(calls, [1] * (8 if kind == "mla" else 16))
        self.assertEqual(len(self.dead), 1)
        reader = Engine(url, dir, kind=kind)
        self.addCleanup(reader.close)
        for engine in (writer, reader):
            self.assertEqual(engine.exists(keys), 8)
            self.assertEqual(engine.get(keys), [True] * 8)
