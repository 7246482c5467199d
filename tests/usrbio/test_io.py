"""I/O through rings, and what posix reads see of it."""

import os

import client
import layout
from support import CHUNK_BYTES, StandInTest


class IoTest(StandInTest):
    def test_a_read_gives_the_files_bytes(self):
        content = os.urandom(2 * CHUNK_BYTES + 777)
        _, _, file = self.new_file(content)
        iov, ring = self.iov(4 * CHUNK_BYTES), self.ring(8, for_read=True)
        results = ring.run([(iov, 4096, file, 0, len(content))])
        self.assertEqual(results, {0: len(content)})
        self.assertEqual(iov.memory[4096:4096 + len(content)], content)
        self.assertEqual(iov.memory[:4096], bytes(4096))
        self.assertEqual(iov.memory[4096 + len(content):], bytes(2 * CHUNK_BYTES - 4096 - 777))

    def test_a_write_is_seen_at_once_through_the_mount(self):
        name, fd, file = self.new_file(bytes(CHUNK_BYTES))
        iov, ring = self.iov(CHUNK_BYTES), self.ring(4, for_read=False)
        for turn in range(20):
            self.assertEqual(os.pread(fd, 8192, 4096), iov.memory[:8192] if turn else bytes(8192))
            iov.memory[:8192] = os.urandom(8192)
            self.assertEqual(ring.run([(iov, 0, file, 4096, 8192)]), {0: 8192})
            self.assertEqual(os.pread(fd, 8192, 4096), iov.memory[:8192], f"turn {turn}")
            with open(self.standin.file(name), "rb") as again:
                again.seek(4096)
                self.assertEqual(again.read(8192), iov.memory[:8192], f"turn {turn}")
        self.assertEqual(self.standin.backing_bytes(name)[4096:12288], iov.memory[:8192])

    def test_a_posix_write_is_seen_at_once_by_a_ring(self):
        _, fd, file = self.new_file(bytes(8192))
        iov, ring = self.iov(8192), self.ring(4, for_read=True)
        for turn in range(20):
            content = os.urandom(8192)
            os.pwrite(fd, content, 0)
            self.assertEqual(ring.run([(iov, 0, file, 0, 8192)]), {0: 8192})
            self.assertEqual(iov.memory[:], content, f"turn {turn}")

    def test_a_write_behind_the_end_makes_the_file_longer(self):
        name, fd, file = self.new_file(b"abc")
        iov, ring = self.iov(4096), self.ring(4, for_read=False)
        iov.memory[:] = b"x" * 4096
        self.assertEqual(ring.run([(iov, 0, file, 8192, 4096)]), {0: 4096})
        self.assertEqual(self.standin.backing_bytes(name), b"abc" + bytes(8189) + b"x" * 4096)
        self.assertEqual(os.pread(fd, 8192, 8192), b"x" * 4096)

    def test_a_read_at_the_end_is_short(self):
        _, _, file = self.new_file(b"q" * 1000)
        iov, ring = self.iov(65536), self.ring(8, for_read=True)
        ios = [(iov, 0, file, 0, 4096), (iov, 4096, file, 999, 4096), (iov, 8192, file, 1000, 4096),
               (iov, 12288, file, 1 << 40, 4096), (iov, 16384, file, 0, 1000)]
        self.assertEqual(ring.run(ios), {0: 1000, 1: 1, 2: 0, 3: 0, 4: 1000})
        self.assertEqual(iov.memory[:1000], b"q" * 1000)
        self.assertEqual(iov.memory[4096:4097], b"q")

    def test_a_hole_reads_as_zeros_where_data_follows(self):
        _, fd, file = self.new_file()
        os.ftruncate(fd, 65536)
        iov, ring = self.iov(65536), self.ring(2, for_read=True)
        iov.memory[:] = b"\xee" * 65536
        self.assertEqual(ring.run([(iov, 0, file, 0, 65536)]), {0: 0}, "nothing was written, though the file is longer")
        os.pwrite(fd, b"\x07" * 4096, 32768)
        self.assertEqual(ring.run([(iov, 0, file, 0, 65536)]), {0: 36864})
        self.assertEqual(iov.memory[:36864], bytes(32768) + b"\x07" * 4096)

    def test_several_rings_of_every_priority(self):
        contents = {priority: os.urandom(40_000) for priority in ("high", "normal", "low")}
        iov = self.iov(1 << 20)
        rings = []
        for at, (priority, content) in enumerate(contents.items()):
            _, _, file = self.new_file(content)
            for turn in range(3):
                ring = self.ring(16, for_read=True, priority=priority, timeout_ms=turn * 10, flags=turn)
                rings.append((ring, file, content, (at * 3 + turn) * 65536))
        for ring, file, _, base in rings:
            for part in range(10):
                ring.prepare(iov, base + part * 4000, file, part * 4000, 4000, userdata=part)
        for ring, *_ in rings:
            ring.submit()
        for ring, _, content, base in rings:
            done = ring.wait(10, 10)
            self.assertEqual(sorted((c.userdata, c.result) for c in done), [(part, 4000) for part in range(10)])
            self.assertEqual(iov.memory[base:base + 40_000], content)

    def test_two_iovs_and_two_files_in_one_batch(self):
        first, second = os.urandom(5000), os.urandom(5000)
        (_, _, one), (_, _, two) = self.new_file(first), self.new_file(second)
        iovs = [self.iov(8192), self.iov(8192, block_bytes=8192)]
        ring = self.ring(4, for_read=True)
        self.assertEqual(ring.run([(iovs[1], 0, one, 0, 5000), (iovs[0], 0, two, 0, 5000)]), {0: 5000, 1: 5000})
        self.assertEqual((iovs[1].memory[:5000], iovs[0].memory[:5000]), (first, second))

    def test_userdata_is_any_64_bits(self):
        _, _, file = self.new_file(b"x" * 100)
        iov, ring = self.iov(4096), self.ring(4, for_read=True)
        marks = [0, 1 << 63, (1 << 64) - 1, 0x0123456789ABCDEF]
        for at, mark in enumerate(marks):
            ring.prepare(iov, 100 * at, file, 0, 100, userdata=mark)
        ring.submit()
        self.assertEqual({c.userdata for c in ring.wait(4, 4)}, set(marks))


class RingTest(StandInTest):
    """When the daemon takes I/Os, and how cursors move."""

    def setUp(self):
        super().setUp()
        self.content = os.urandom(64 * 1024)
        _, _, self.file = self.new_file(self.content)
        self.memory = self.iov(1 << 20)

    def io(self, part: int) -> tuple:
        return (self.memory, part * 4096, self.file, part % 16 * 4096, 4096)

    def test_nothing_happens_without_a_submit(self):
        silent, other = self.ring(8, for_read=True), self.ring(8, for_read=True, priority="high")
        silent.prepare(*self.io(0))
        for _ in range(50):
            self.assertEqual(other.run([self.io(1)]), {0: 4096})
        self.assertEqual(silent.wait(1, 1, timeout_s=0.5), [])
        self.assertEqual([silent.ring.load(at) for at in (0, 4, 8, 12)], [1, 0, 0, 0])
        silent.submit()
        self.assertEqual([c.result for c in silent.wait(1)], [4096])

    def test_a_submit_wakes_every_ring_of_its_priority(self):
        one, other = self.ring(8, for_read=True), self.ring(8, for_read=True)
        one.prepare(*self.io(0))
        other.prepare(*self.io(1))
        other.submit()
        self.assertEqual([c.result for c in one.wait(1)], [4096])
        self.assertEqual([c.result for c in other.wait(1)], [4096])

    def test_io_depth_0_takes_what_is_there(self):
        ring = self.ring(64, for_read=True, io_depth=0)
        for count in (1, 2, 7, 64, 3):
            self.assertEqual(ring.run([self.io(part) for part in range(count)]), {part: 4096 for part in range(count)})

    def test_io_depth_n_waits_for_n(self):
        ring = self.ring(16, for_read=True, io_depth=4)
        for part in range(3):
            ring.prepare(*self.io(part), userdata=part)
        ring.submit()
        self.assertEqual(ring.wait(1, 1, timeout_s=0.5), [])
        self.assertEqual(ring.ring.load(layout.SQE_TAIL), 0)
        ring.prepare(*self.io(3), userdata=3)
        ring.submit()
        self.assertEqual(sorted(c.userdata for c in ring.wait(4, 4)), [0, 1, 2, 3])
        self.assertEqual(len(ring.run([self.io(part) for part in range(8)])), 8, "two batches of four at once")

    def test_a_full_ring_says_so_and_goes_on(self):
        ring = self.ring(4, for_read=True)
        for _ in range(3):
            for part in range(4):
                ring.prepare(*self.io(part), userdata=part)
            with self.assertRaises(BlockingIOError):
                ring.prepare(*self.io(4))
            ring.submit()
            self.assertEqual(len(ring.wait(4, 4)), 4)

    def test_ten_thousand_ios_through_four_entries(self):
        ring, done, sent = self.ring(4, for_read=True), [], 0
        while len(done) < 10_000:
            prepared = False
            while sent < 10_000:
                try:
                    ring.prepare(*self.io(sent % 16), userdata=sent)
                except BlockingIOError:
                    break
                sent, prepared = sent + 1, True
            if prepared:
                ring.submit()
            some = ring.wait(4)
            self.assertTrue(some, f"nothing more after {len(done)} of {sent}")
            done += some
        self.assertEqual(sorted(c.userdata for c in done), list(range(10_000)))
        self.assertEqual({c.result for c in done}, {4096})
        self.assertEqual([ring.ring.load(at) for at in (0, 4, 8, 12)], [10_000 % 5] * 4)
        self.assertEqual(self.memory.memory[:65536], self.content)

    def test_a_batch_that_wraps_keeps_its_order_and_bytes(self):
        ring = self.ring(7, for_read=True, io_depth=3)
        for turn in range(30):
            self.memory.memory[:65536] = bytes(65536)
            self.assertEqual(ring.run([self.io(part) for part in range(3)]), {0: 4096, 1: 4096, 2: 4096}, turn)
            self.assertEqual(self.memory.memory[:12288], self.content[:12288])

    def test_the_rings_file_is_gone_and_it_works(self):
        ring = self.ring(4, for_read=True)
        self.assertFalse(os.path.exists(ring.shm_path))
        self.assertEqual(os.readlink(ring.link), ring.shm_path)
        self.assertEqual(ring.run([self.io(0)]), {0: 4096})

    def test_a_ring_of_one_entry(self):
        ring = self.ring(1, for_read=True)
        for _ in range(10):
            self.assertEqual(ring.run([self.io(0)]), {0: 4096})

    def test_a_large_ring(self):
        ring = self.ring(4096, for_read=True)
        ios = [(self.memory, part * 256, self.file, part % 256 * 256, 256) for part in range(4096)]
        self.assertEqual(set(ring.run(ios).items()), {(part, 256) for part in range(4096)})

    def test_both_directions_in_one_process(self):
        name, _, target = self.new_file(bytes(65536))
        reader, writer = self.ring(16, for_read=True), self.ring(16, for_read=False)
        reader.run([self.io(part) for part in range(16)])
        copies = [(self.memory, part * 4096, target, part * 4096, 4096) for part in range(16)]
        self.assertEqual(writer.run(copies), {part: 4096 for part in range(16)})
        self.assertEqual(self.standin.backing_bytes(name), self.content)
