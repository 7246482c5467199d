"""Long and hostile use: ten thousand lives of a ring, and memory that a client scribbles over."""

import os
import random
import struct
import time

import client
import layout
from support import StandInTest

CYCLES = 10_000
SCRIBBLE_S = 5.0


class CyclesTest(StandInTest):
    def test_ten_thousand_lives_leave_nothing(self):
        content = os.urandom(4096)
        _, _, file = self.new_file(content)
        for cycle in range(CYCLES):
            iov = client.Iov.create(self.mount, 4096)
            ring = client.Ring(self.mount, 4, for_read=True)
            if cycle % 100 == 0:
                self.assertEqual(ring.run([(iov, 0, file, 0, 4096)]), {0: 4096}, f"cycle {cycle}")
            ring.destroy()
            iov.destroy()
        self.assertEqual(self.standin.links(), set())
        self.assertEqual([name for name in os.listdir("/dev/shm") if not name.startswith("sem.")], [])
        with open(f"/proc/{self.standin.process.pid}/maps", encoding="utf-8") as maps:
            self.assertLess(sum("hf3fs-iov-" in line for line in maps), 20, "the daemon unmaps what is gone")
        self.assertLess(len(os.listdir(f"/proc/{self.standin.process.pid}/fd")), 200)


class HostileTest(StandInTest):
    """The seed is printed by a failure; FOREWORD_SEED repeats it."""

    own = True

    def setUp(self):
        super().setUp()
        self.seed = int(os.environ.get("FOREWORD_SEED", "0")) or random.SystemRandom().getrandbits(32)
        self.random = random.Random(self.seed)
        self.content = os.urandom(65536)
        self.guard = self.iov(65536)
        self.name, _, self.file = self.new_file(self.content)

    def still_serves(self):
        self.assertTrue(self.standin.alive(), f"seed {self.seed}: {self.standin.log()}")
        for for_read in (True, False):
            ring = client.Ring(self.mount, 4, for_read=for_read)
            _, _, other = self.new_file(self.content)
            self.assertEqual(ring.run([(self.guard, 0, other, 0, 65536)]), {0: 65536}, f"seed {self.seed}")
            ring.destroy()

    def scribble(self, ring: client.Ring, victim: client.Iov):
        """One hostile act on a ring's memory."""
        memory, act = ring.ring.memory, self.random.randrange(6)
        value = self.random.choice((0, -1, 1, ring.ring.cells, 1 << 30, -(1 << 31), (1 << 31) - 1, self.random.getrandbits(31)))
        if act == 0:
            struct.pack_into("<i", memory, self.random.choice((0, 4, 8, 12)), value)
        elif act == 1:
            at = self.random.randrange(ring.ring.cells)
            struct.pack_into("<i4xQ", memory, 16 + 80 * ring.ring.cells + 16 * at, value, self.random.getrandbits(64))
        elif act == 2:
            at = self.random.randrange(len(memory) - 64)
            memory[at:at + 64] = self.random.randbytes(64)
        elif act == 3:
            at = 16 + 96 * ring.ring.cells
            memory[at:at + 32] = self.random.randbytes(32)
        elif act == 4:
            wild = [self.random.choice((0, 4096, 65535, 65536, 1 << 63, (1 << 64) - 1, self.random.getrandbits(64))) for _ in range(2)]
            ring.ring.set_args(self.random.randrange(ring.ring.cells), victim.id, wild[0], self.file.number, 0, wild[1], 1)
            self.push(ring)
        else:
            iov_id = self.random.choice((victim.id, self.random.randbytes(16)))
            offset = self.random.randrange(0, 65536)
            number = self.random.choice((self.file.number, self.random.getrandbits(64)))
            ring.ring.set_args(self.random.randrange(ring.ring.cells), iov_id, offset, number, offset, 65536 - offset, 1)
            self.push(ring)

    def push(self, ring: client.Ring):
        head = ring.ring.load(layout.SQE_HEAD)
        if 0 <= head < ring.ring.cells:
            ring.ring.set_sqe(head, self.random.randrange(ring.ring.cells), 1)
            ring.ring.store(layout.SQE_HEAD, ring.ring.next(head))

    def test_scribbling_into_read_rings(self):
        self.scribble_for(SCRIBBLE_S, for_read=True)
        self.assertEqual(self.standin.backing_bytes(self.name), self.content, "reads changed a file")

    def test_scribbling_into_write_rings(self):
        name, _, self.file = self.new_file(bytes(65536))
        self.scribble_for(2.0, for_read=False)
        # An offset of one act can meet the length of another, so twice the largest of either.
        self.assertLessEqual(os.path.getsize(os.path.join(self.standin.backing, name)), 2 * 65536)

    def scribble_for(self, seconds: float, for_read: bool):
        victim = self.iov(65536, block_bytes=65536)
        self.guard.memory[:] = b"\x5a" * 65536
        deadline_s = time.monotonic() + seconds
        acts = 0
        while time.monotonic() < deadline_s:
            depth = self.random.choice((0, 0, 1, 4))
            ring = client.Ring(self.mount, 7, for_read, io_depth=depth, priority=self.random.choice(("high", "normal", "low")))
            for _ in range(200):
                self.scribble(ring, victim)
                if self.random.random() < 0.3:
                    ring.submit()
                acts += 1
            ring.destroy()
            self.assertTrue(self.standin.alive(), f"seed {self.seed}, act {acts}: {self.standin.log()}")
        self.assertGreater(acts, 1000)
        self.assertEqual(self.guard.memory[:], b"\x5a" * 65536, f"seed {self.seed}: an iov that nobody named")
        self.still_serves()

    def test_a_file_that_shrinks_under_the_daemon(self):
        """Truncated shared memory is a bus error for whoever touches it. The daemon must live."""
        victim = self.iov(65536)
        ring = self.ring(4, for_read=True)
        os.truncate(os.readlink(victim.link), 4096)
        results = ring.run([(victim, 8192, self.file, 0, 4096)], timeout_s=5.0)
        self.assertLess(results.get(0, -1), 0, "no success for memory that is not there")
        self.still_serves()
