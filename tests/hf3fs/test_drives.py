"""SGLang's whole path to storage over Foreword: UnifiedRadixCache, its controller's threads, the factory, HiCacheHF3FS.

A producer's pages are read back by another process and compared, layer by layer."""

import os
import unittest

from group import Foreword
from sglang_server import shared_dir
from support import new_dir, setting, tail


class Drives(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.group = Foreword(replicas=3)
        cls.addClassCleanup(cls.group.close)

    def drive(self, kind: str, layout: str):
        log = os.path.join(new_dir("drive-"), "log")
        url = self.group.url(f"{kind}-{layout}", self.group.followers()[0])
        arguments = ["--backend", "hf3fs", "--url", url, "--kind", kind, "--layout", layout, "--clear"]
        nursery = setting("nursery")
        script = os.path.join(shared_dir(), "sglang", "drive_unified_cache.py")
        code = nursery.wait(nursery.script(log, script, arguments))
        self.assertEqual(code, 0, tail(log))
        self.assertIn("1 passed, 0 failed", tail(log))
        confirmed = [file for file in self.group.status()["hf3fs"]["files"] if file["deployment"] == f"{kind}-{layout}"]
        self.assertEqual([(file["rank"], file["pool"], file["confirmed"]) for file in confirmed], [(0, "kv", 0)])

    def test_mha(self):
        self.drive("mha", "page_first")

    def test_mla(self):
        self.drive("mla", "page_first")

    def test_mla_page_first_direct(self):
        self.drive("mla", "page_first_direct")
