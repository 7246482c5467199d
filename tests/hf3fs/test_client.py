"""SGLang's own Hf3fsGlobalMetadataClient and HiCacheHF3FS against Foreword, through a follower and through the leader."""

import unittest

import torch
from engine import Engine, page_bytes, pattern, write_page
from group import Foreword
from sgl_cpu import PAGE, host_pool
from sglang.srt.mem_cache.hicache_storage import PoolHitPolicy, PoolName, PoolTransfer
from sglang.srt.mem_cache.storage.hf3fs.mini_3fs_metadata_server import Hf3fsGlobalMetadataClient
from support import new_dir


class WithGroup(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.group = Foreword(replicas=3)
        cls.addClassCleanup(cls.group.close)

    def engine(self, deployment: str, dir: str = "", **options) -> Engine:
        follower = self.group.followers()[0]
        engine = Engine(self.group.url(deployment, follower), dir or new_dir("engine-"), **options)
        self.addCleanup(engine.close)
        return engine


class MetadataClient(WithGroup):
    def test_all_methods_at_every_replica(self):
        """Each replica in turn; what one has answered, the others know when they are asked through the leader."""
        for replica in self.group.replicas():
            with self.subTest(replica=replica):
                self.all_methods(Hf3fsGlobalMetadataClient(self.group.url("methods", replica)), replica)

    def all_methods(self, client, rank: int):
        client.initialize(rank, 8)
        client.initialize(rank, 8)
        self.assertEqual(client.exists(rank, ["a", "b"]), [False, False])
        self.assertEqual(client.get_page_indices(rank, ["a"]), [None])
        self.assertEqual(client.reserve_and_allocate_page_indices(rank, [("a", ""), ("b", "a")]), [(False, 7), (False, 6)])
        self.assertEqual(client.exists(rank, ["a"]), [False])
        self.assertIsNone(client.confirm_write(rank, [("a", 7)], [6]))
        self.assertEqual(client.exists(rank, ["b", "a"]), [False, True])
        self.assertEqual(client.get_page_indices(rank, ["a"]), [7])
        self.assertEqual(client.reserve_and_allocate_page_indices(rank, [("a", "")]), [(True, 7)])
        client.delete_keys(rank, ["a", "unknown"])
        self.assertEqual(client.exists(rank, ["a"]), [False])
        (_, page), = client.reserve_and_allocate_page_indices(rank, [("c", "")])
        client.confirm_write(rank, [("c", page)], [])
        client.clear(rank)
        self.assertEqual(client.exists(rank, ["c"]), [False])

    def test_pools_of_a_rank_are_apart(self):
        client = Hf3fsGlobalMetadataClient(self.group.url("pools"))
        for pool in (PoolName.KV, PoolName.MAMBA, PoolName.INDEXER):
            client.initialize(0, 4, namespace=pool)
        ((_, page),) = client.reserve_and_allocate_page_indices(0, [("a", "")], namespace=PoolName.MAMBA)
        client.confirm_write(0, [("a", page)], [], namespace=PoolName.MAMBA)
        self.assertEqual(client.exists(0, ["a"], namespace=PoolName.MAMBA), [True])
        self.assertEqual(client.exists(0, ["a"], namespace=PoolName.INDEXER), [False])
        self.assertEqual(client.exists(0, ["a"]), [False])
        client.clear(0)
        self.assertEqual(client.get_page_indices(0, ["a"], namespace=PoolName.MAMBA), [page])

    def test_a_refusal_reaches_the_caller(self):
        client = Hf3fsGlobalMetadataClient(self.group.url("refusals"))
        client.initialize(0, 4)
        with self.assertRaisesRegex(RuntimeError, "409"):
            client.initialize(0, 5)
        with self.assertRaisesRegex(RuntimeError, "404"):
            client.exists(1, ["a"])

    def test_128k_tokens_in_one_call(self):
        client = Hf3fsGlobalMetadataClient(self.group.url("long"))
        client.initialize(0, 4096)
        keys = [f"{number:064x}-{part}" for number in range(1024) for part in "kv"]
        pages = client.reserve_and_allocate_page_indices(0, [(key, "") for key in keys])
        self.assertEqual(pages, [(False, 4095 - at) for at in range(2048)])
        client.confirm_write(0, [(key, page) for key, (_, page) in zip(keys, pages)], [])
        self.assertEqual(client.exists(0, keys), [True] * 2048)


class Storage(WithGroup):
    def test_pages_come_back_in_another_engine(self):
        for kind in ("mha", "mla"):
            with self.subTest(kind=kind):
                dir = new_dir("files-")
                writer, reader = (self.engine(f"come-back-{kind}", dir, kind=kind) for _ in range(2))
                keys = [f"page {number}" for number in range(12)]
                self.assertEqual(reader.exists(keys), 0)
                self.assertEqual(reader.get(keys), [False] * 12)
                self.assertTrue(all(writer.set(keys)))
                self.assertEqual(reader.exists(keys + ["unknown"]), 12)
                self.assertEqual(reader.get(keys), [True] * 12)
                self.assertEqual(reader.get(keys + ["unknown"])[12:], [False])
                self.assertTrue(all(reader.set(keys)), "written before: nothing to do")
                writer.storage.clear()
                self.assertEqual(reader.exists(keys), 0)

    def test_more_pages_than_the_file_has(self):
        """What finds no page is not written; what SGLang takes for written is there."""
        engine = self.engine("overfull", pages=8)
        keys = [f"page {number}" for number in range(12)]
        done = engine.set(keys)
        self.assertEqual(done, [True] * 8 + [False] * 4)
        self.assertEqual(engine.exists(keys), 8)
        self.assertEqual(engine.get(keys[:8]), [True] * 8)

    def test_deployments_do_not_see_each_other(self):
        """The same rank, the same keys, other bytes: two models."""
        one, other = self.engine("model-a"), self.engine("model-b", kind="mha")
        keys = ["shared page 1", "shared page 2"]
        self.assertTrue(all(one.set(keys, "of a: ")))
        self.assertEqual((one.exists(keys), other.exists(keys)), (2, 0))
        self.assertEqual(other.get(keys), [False, False])
        self.assertTrue(all(other.set(keys, "of b: ")))
        self.assertEqual(one.get(keys, "of a: "), [True, True])
        self.assertEqual(other.get(keys, "of b: "), [True, True])
        one.storage.clear()
        self.assertEqual((one.exists(keys), other.exists(keys)), (0, 2))

    def test_a_second_pool_and_its_holes(self):
        """A pool beside kv keeps only some pages: those behind a hole are read into their own buffers."""
        engine = self.engine("two-pools")
        pool = host_pool("mla", layout="page_first", pages=32, lora=16, label="indexer")
        engine.storage.register_mem_host_pool_v2(pool, PoolName.INDEXER)
        keys = [f"page {number}" for number in range(6)]
        self.assertTrue(all(engine.set(keys)))
        kept = [at for at in range(6) if at not in (0, 3)]
        for at in range(6):
            write_page(pool, at, f"indexer of {keys[at]}")
        indices = torch.cat([torch.arange(at * PAGE, (at + 1) * PAGE) for at in kept])
        transfer = PoolTransfer(PoolName.INDEXER, host_indices=indices, keys=[keys[at] for at in kept])
        self.assertEqual(engine.storage.batch_set_v2([transfer]), {PoolName.INDEXER: [True] * 4})
        for at in range(6):
            write_page(pool, at, "nothing was read here")
        transfer = PoolTransfer(PoolName.INDEXER, host_indices=engine.indices(6), keys=keys)
        expected = [at in kept for at in range(6)]
        self.assertEqual(engine.storage.batch_get_v2([transfer]), {PoolName.INDEXER: expected})
        for at in kept:
            read = page_bytes(pool, at)
            self.assertEqual(read, pattern(f"indexer of {keys[at]}", len(read)), f"page {at}")
        tail = PoolTransfer(PoolName.INDEXER, keys=keys[4:], hit_policy=PoolHitPolicy.TRAILING_PAGES)
        hits = engine.storage.batch_exists_v2(keys, [tail])
        self.assertEqual((hits.kv_hit_pages, hits.extra_pool_hit_pages), (6, {PoolName.KV: 6, PoolName.INDEXER: 6}))
        every = PoolTransfer(PoolName.INDEXER, keys=keys, hit_policy=PoolHitPolicy.ALL_PAGES)
        self.assertEqual(engine.storage.batch_exists_v2(keys, [every]).kv_hit_pages, 0)
