"""Each kind of fault that the stand-in can make, seen by a client; and completions that come too late."""

import errno
import os
import signal
import time
import uuid

import client
from support import StandInTest, wait_until

LATE_S = 0.3


class FaultTest(StandInTest):
    """A stand-in of its own with `options`; `ring` reads 64 parts of one file."""

    PARTS, PART = 64, 4096

    def setUp(self):
        super().setUp()
        self.content = os.urandom(self.PARTS * self.PART)
        self.name, _, self.file = self.new_file(self.content)
        self.memory = self.iov(self.PARTS * self.PART)

    def each_a_job(self, for_read: bool = True):
        """A ring whose I/Os are jobs of their own: a fault hits a job."""
        return self.ring(64, for_read, io_depth=-1)

    def io(self, part: int) -> tuple:
        return (self.memory, part * self.PART, self.file, part * self.PART, self.PART)

    def read_all(self, ring, timeout_s=20.0) -> dict:
        return ring.run([self.io(part) for part in range(self.PARTS)], timeout_s)

    def right(self, part: int) -> bool:
        at = part * self.PART
        return self.memory.memory[at:at + self.PART] == self.content[at:at + self.PART]


class LatencyTest(FaultTest):
    options = ("--fault", "latency=300ms")

    def test_an_io_is_late_and_right(self):
        ring = self.ring(64, for_read=True)
        slot = ring.prepare(*self.io(0), userdata=1)
        start_s = time.monotonic()
        ring.submit()
        self.assertEqual(ring.wait(1), [(slot, self.PART, 1)])
        self.assertGreaterEqual(time.monotonic() - start_s, LATE_S)
        self.assertTrue(self.right(0))

    def test_a_late_completion_keeps_its_buffer_after_destroy(self):
        kept = client.Shm("hf3fs-iov-" + str(uuid.uuid4()), 65536, create=True)
        number = uuid.uuid4()
        link = self.mount.link_path(str(number))
        os.symlink(kept.path, link)
        late = self.standin.counters()["fault_latency"]
        ring = client.Ring(self.mount, 8, for_read=True)
        for part in range(8):
            ring.prepare(number.bytes, part * self.PART, self.file, part * self.PART, self.PART, userdata=part)
        ring.submit()
        wait_until(lambda: self.standin.counters()["fault_latency"] == late + 8, "the daemon takes the I/Os")
        cells = ring.ring.memory
        os.unlink(ring.link)
        os.unlink(link)
        kept.unlink()
        self.assertEqual(ring.reap(8), [], "too early: this test needs I/Os under way")
        wait_until(lambda: kept.memory[:8 * self.PART] == self.content[:8 * self.PART], "late bytes land in the old buffer")
        wait_until(lambda: cells[8:12] == b"\x08\0\0\0", "late completions land in the old ring")
        self.assertEqual(sorted(c.result for c in ring.reap(8)), [self.PART] * 8)
        ring.forget()
        kept.memory.close()
        self.assertEqual(len(self.read_all(self.ring(64, for_read=True))), self.PARTS)

    def test_everything_unmapped_while_ios_are_under_way(self):
        for for_read in (True, False) * 5:
            iov, ring = client.Iov.create(self.mount, 65536), client.Ring(self.mount, 16, for_read)
            target = self.file if for_read else self.new_file(bytes(65536))[2]
            for part in range(16):
                ring.prepare(iov, part * 4096, target, part * 4096, 4096)
            ring.submit()
            ring.destroy()
            iov.destroy()
        self.assertEqual(self.read_all(self.ring(64, for_read=True)), {part: self.PART for part in range(self.PARTS)})


class StallTest(FaultTest):
    options = ("--fault", "stall=1s:50%", "--seed", "7")

    def test_some_jobs_stall_and_come(self):
        ring = self.each_a_job()
        results = self.read_all(ring, timeout_s=0.0)
        early = ring.wait(self.PARTS, self.PARTS, timeout_s=0.7)
        self.assertLess(len(results) + len(early), self.PARTS, "some are stalled")
        late = ring.wait(self.PARTS, self.PARTS - len(early) - len(results))
        self.assertEqual({c.result for c in early + late} | set(results.values()), {self.PART})
        self.assertEqual(len(results) + len(early) + len(late), self.PARTS)
        self.assertTrue(all(map(self.right, range(self.PARTS))))


class EioTest(FaultTest):
    options = ("--fault", "eio=50%", "--seed", "7")

    def test_some_jobs_answer_eio(self):
        for for_read in (True, False):
            results = self.read_all(self.each_a_job(for_read))
            self.assertEqual(len(results), self.PARTS)
            self.assertEqual(set(results.values()), {self.PART, -errno.EIO})
        self.assertEqual(self.standin.backing_bytes(self.name)[-self.PART:], self.content[-self.PART:])

    def test_a_job_fails_as_a_whole(self):
        seen = set()
        for _ in range(20):
            # Exactly all parts: a look in the middle of the batch takes none of it.
            results = set(self.read_all(self.ring(64, for_read=True, io_depth=self.PARTS)).values())
            self.assertEqual(len(results), 1, results)
            seen |= results
        self.assertEqual(seen, {self.PART, -errno.EIO})

    def test_a_failed_read_moves_nothing(self):
        self.memory.memory[:] = b"\xaa" * len(self.memory.memory)
        results = self.read_all(self.each_a_job())
        for part, result in results.items():
            at = part * self.PART
            untouched = self.memory.memory[at:at + self.PART] == b"\xaa" * self.PART
            self.assertEqual((self.right(part), untouched), (result > 0, result < 0))


class ShortTest(FaultTest):
    options = ("--fault", "short=50%", "--seed", "7")

    def test_some_ios_are_short_and_say_so(self):
        memory = self.iov(16 * 65536)
        _, _, file = self.new_file(content := os.urandom(16 * 65536))
        ring = self.ring(16, for_read=True)
        results = ring.run([(memory, part * 65536, file, part * 65536, 65536) for part in range(16)])
        self.assertEqual(len(results), 16)
        self.assertIn(65536, results.values())
        self.assertTrue([result for result in results.values() if 0 <= result < 65536], results)
        for part, result in results.items():
            at = part * 65536
            self.assertGreaterEqual(result, 0)
            self.assertEqual(memory.memory[at:at + result], content[at:at + result])


class DropTest(FaultTest):
    options = ("--fault", "drop=50%", "--seed", "7")

    def test_some_completions_never_come_and_the_ring_goes_on(self):
        first = self.each_a_job()
        results = self.read_all(first, timeout_s=1.0)
        self.assertTrue(0 < len(results) < self.PARTS, results)
        self.assertEqual(set(results.values()), {self.PART})
        self.assertTrue(all(self.right(part) for part in results))
        lost = self.PARTS - len(results)
        self.assertEqual(first.ring.load(4), first.ring.load(0), "sqeTail advances past what was dropped")
        for _ in range(self.PARTS - lost):
            first.prepare(*self.io(0), userdata=99)
            first.submit()
            if first.wait(1, timeout_s=0.5):
                return
        self.fail("nothing more from a ring with lost completions")


class ReorderTest(FaultTest):
    options = ("--fault", "reorder", "--seed", "7")

    def test_completions_come_in_another_order(self):
        ring, orders = self.ring(64, for_read=True), []
        for _ in range(5):
            for part in range(self.PARTS):
                ring.prepare(*self.io(part), userdata=part)
            ring.submit()
            done = ring.wait(self.PARTS, self.PARTS)
            self.assertEqual({c.result for c in done}, {self.PART})
            orders.append([c.userdata for c in done])
            self.assertEqual(sorted(orders[-1]), list(range(self.PARTS)))
        self.assertTrue(any(order != sorted(order) for order in orders))
        self.assertTrue(all(map(self.right, range(self.PARTS))))


class DeathTest(FaultTest):
    options = ("--fault", "latency=300ms")

    def test_a_dead_daemon_is_a_deadline_and_enotconn(self):
        """Prepare and submit still succeed; wait ends at its deadline; fstat says ENOTCONN."""
        _, fd, _ = self.new_file(b"x")
        ring = self.ring(64, for_read=True)
        self.standin.process.send_signal(signal.SIGKILL)
        self.standin.process.wait()
        self.assertEqual(self.read_all(ring, timeout_s=0.5), {})
        with self.assertRaises(OSError) as gone:
            os.fstat(fd)
        self.assertEqual(gone.exception.errno, errno.ENOTCONN)

    def _nothing_left(self):
        """Nobody else is there to clean up after a daemon that was killed."""
        self.standin.forget_dead()

    @classmethod
    def tearDownClass(cls):
        """The daemon is dead already."""
