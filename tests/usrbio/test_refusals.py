"""What the daemon refuses, in a ring and in 3fs-virt/iovs. A refusal is an answer: the ring goes on."""

import errno
import os
import uuid

import client
import layout
from support import StandInTest


class RefusedIoTest(StandInTest):
    def setUp(self):
        super().setUp()
        self.content = os.urandom(65536)
        self.name, _, self.file = self.new_file(self.content)
        self.memory = self.iov(262144)
        self.reader = self.ring(16, for_read=True)

    def refused(self, *ios, ring=None):
        ring = ring or self.reader
        results = ring.run(list(ios))
        self.assertEqual(len(results), len(ios))
        for position, result in results.items():
            self.assertLess(result, 0, f"I/O {position} of {ios}")
            self.assertGreater(result, -4096, "an errno")
        file = self.file if ring.for_read else self.new_file(b"")[2]
        self.assertEqual(ring.run([(self.memory, 0, file, 0, 4096)]), {0: 4096}, "the ring still serves")

    def test_overlapping_reads_fail_the_whole_batch(self):
        self.refused(
            (self.memory, 0, self.file, 0, 4096),
            (self.memory, 4095, self.file, 8192, 4096),
            (self.memory, 65536, self.file, 0, 4096),
        )
        self.refused((self.memory, 0, self.file, 0, 8192), (self.memory, 4096, self.file, 0, 100))
        self.refused((self.memory, 0, self.file, 0, 100), (self.memory, 0, self.file, 0, 100))

    def test_reads_that_touch_do_not_overlap(self):
        ios = [(self.memory, part * 100, self.file, part * 100, 100) for part in range(10)]
        self.assertEqual(self.reader.run(ios), {part: 100 for part in range(10)})

    def test_overlap_in_two_iovs_is_none(self):
        other = self.iov(4096)
        ios = [(self.memory, 0, self.file, 0, 4096), (other, 0, self.file, 4096, 4096)]
        self.assertEqual(self.reader.run(ios), {0: 4096, 1: 4096})

    def test_writes_may_share_a_buffer(self):
        name, _, target = self.new_file(bytes(8192))
        self.memory.memory[:4096] = self.content[:4096]
        writer = self.ring(4, for_read=False)
        ios = [(self.memory, 0, target, 0, 4096), (self.memory, 0, target, 4096, 4096)]
        self.assertEqual(writer.run(ios), {0: 4096, 1: 4096})
        self.assertEqual(self.standin.backing_bytes(name), self.content[:4096] * 2)

    def test_an_io_across_a_block_boundary(self):
        blocks = self.iov(262144, block_bytes=65536)
        self.refused((blocks, 61440, self.file, 0, 8192))
        self.refused((blocks, 0, self.file, 0, 65537))
        self.refused((blocks, 65535, self.file, 0, 2))
        self.assertEqual(self.reader.run([(blocks, 65536, self.file, 0, 65536)]), {0: 65536})
        self.assertEqual(blocks.memory[65536:131072], self.content)
        writer = self.ring(4, for_read=False)
        self.refused((blocks, 61440, self.file, 0, 8192), ring=writer)

    def test_an_io_outside_its_iov(self):
        for offset, length in (
            (262144, 1), (262143, 2), (0, 262145), (1 << 40, 1), ((1 << 64) - 1, 1), ((1 << 64) - 4096, 8192),
            (0, (1 << 64) - 1), (4096, (1 << 64) - 4096), (4096, 1 << 63), (1 << 63, 1 << 63),
        ):
            with self.subTest(offset=offset, length=length):
                self.refused((self.memory, offset, self.file, 0, length))

    def test_an_offset_beyond_every_file(self):
        writer = self.ring(4, for_read=False)
        for offset in ((1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096):
            with self.subTest(offset=offset):
                self.refused((self.memory, 0, self.file, offset, 4096), ring=writer)
                result = self.reader.run([(self.memory, 0, self.file, offset, 4096)])[0]
                self.assertLessEqual(result, 0)

    def test_an_unknown_iov(self):
        self.refused((uuid.uuid4().bytes, 0, self.file, 0, 4096))
        self.refused((bytes(16), 0, self.file, 0, 4096))
        self.refused((b"\xff" * 16, 0, self.file, 0, 4096))

    def test_an_iov_that_was_destroyed(self):
        gone = client.Iov.create(self.mount, 4096)
        self.assertEqual(self.reader.run([(gone, 0, self.file, 0, 4096)]), {0: 4096})
        gone.destroy()
        self.refused((gone.id, 0, self.file, 0, 4096))

    def test_an_unknown_file(self):
        for number in (0, self.file.number ^ (1 << 40), 0xFFFFFFFFFFFFFFFE, 0xFFFFFFFF80000000, (1 << 64) - 1):
            with self.subTest(number=hex(number)):
                self.refused((self.memory, 0, number, 0, 4096))

    def test_a_directory_is_no_file(self):
        os.mkdir(self.standin.file("a-directory"))
        self.refused((self.memory, 0, os.stat(self.standin.file("a-directory")).st_ino, 0, 4096))
        os.rmdir(self.standin.file("a-directory"))

    def test_one_bad_io_leaves_the_others_of_its_batch_alone(self):
        results = self.reader.run([
            (self.memory, 0, self.file, 0, 4096),
            (uuid.uuid4().bytes, 0, self.file, 0, 4096),
            (self.memory, 8192, 0xDEAD0000DEAD, 0, 4096),
            (self.memory, 4096, self.file, 4096, 4096),
        ])
        self.assertEqual((results[0], results[3]), (4096, 4096))
        self.assertLess(results[1], 0)
        self.assertLess(results[2], 0)
        self.assertEqual(self.memory.memory[:8192], self.content[:8192])


class RefusedNameTest(StandInTest):
    def setUp(self):
        super().setUp()
        self.data = client.Shm("hf3fs-iov-" + str(uuid.uuid4()), 65536, create=True)
        self.addCleanup(self.data.unlink)
        self.queue = client.Shm("hf3fs-iov-" + str(uuid.uuid4()), layout.ring_bytes(8), create=True)
        self.addCleanup(self.queue.unlink)
        self.number = uuid.uuid4()

    def refused(self, name: str, target: str, *codes: int):
        """The symlink fails with an errno (one of `codes` if given), and nothing was registered."""
        with self.subTest(name=name, target=target):
            try:
                os.symlink(target, self.mount.link_path(name))
            except OSError as error:
                self.assertNotIn(error.errno, (0, errno.ENOTCONN, errno.EIO))
                if codes:
                    self.assertIn(error.errno, codes)
                return
            os.unlink(self.mount.link_path(name))
            self.fail(f"accepted: {name} -> {target}")

    def test_names_that_are_none(self):
        for name in ("nonsense", "1234", "g" * 32, str(self.number)[:-1], f"{self.number}0", f".{self.number}", "submit-ios"):
            self.refused(name, self.data.path)

    def test_data_names(self):
        for suffix in (".", ".b", ".b0", ".bx", ".b-1", ".b1x", ".b65537", ".b99999999999999999999999", ".x1", ".t1", ".f1", ".ph"):
            self.refused(f"{self.number}{suffix}", self.data.path)

    def test_ring_names(self):
        for suffix in (".rx.t0", ".x4.t0", ".r.t0", ".r4.tx", ".r4.t", ".r4.t-1", ".r4.t0.f2", ".r4.t0.f", ".r4.px.t0",
                       ".r4.phh.t0", ".r4..t0", ".r99999999999.t0", ".w4.t99999999999999999999", ".r4.t0.f" + "1" * 65):
            self.refused(f"{self.number}{suffix}", self.queue.path)

    def test_a_batch_larger_than_the_ring(self):
        self.refused(f"{self.number}.r10.t0", self.queue.path)
        self.refused(f"{self.number}.r1000000.t0", self.queue.path)

    def test_targets_that_are_no_shared_memory(self):
        for target in ("/etc/passwd", "/dev/shm", "/dev/shm/", "/dev/shm/../../etc/passwd", "/dev/shm/no-such-file-here",
                       os.path.basename(self.data.path), "", "/dev/shm/.", "/dev/shm/..", "/proc/self/mem", "/dev/zero"):
            self.refused(str(self.number), target)
            self.refused(f"{self.number}.r0.t0", target)

    def test_a_target_that_leads_elsewhere(self):
        trap = "/dev/shm/hf3fs-iov-" + str(uuid.uuid4())
        secret = os.path.join(self.standin.dir, "secret")
        with open(secret, "wb") as file:
            file.write(bytes(65536))
        os.symlink(secret, trap)
        self.addCleanup(os.unlink, trap)
        self.refused(str(self.number), trap)
        self.refused(f"{self.number}.r0.t0", trap)

    def test_a_target_that_is_no_file(self):
        pipe = "/dev/shm/hf3fs-iov-" + str(uuid.uuid4())
        os.mkfifo(pipe)
        self.addCleanup(os.unlink, pipe)
        self.refused(str(self.number), pipe)
        os.mkdir("/dev/shm/hf3fs-dir")
        self.addCleanup(os.rmdir, "/dev/shm/hf3fs-dir")
        self.refused(str(self.number), "/dev/shm/hf3fs-dir")

    def test_ring_files_of_a_wrong_size(self):
        for size in (0, 1, 4096, 4144, 4144 + 96, 4144 + 96 + 95):
            path = "/dev/shm/hf3fs-iov-" + str(uuid.uuid4())
            with open(path, "wb") as file:
                file.truncate(size)
            self.addCleanup(os.unlink, path)
            self.refused(f"{uuid.uuid4()}.r0.t0", path)

    def test_a_name_twice(self):
        first = self.iov(4096)
        self.refused(os.path.basename(first.link), self.data.path, errno.EEXIST)
        self.refused(os.path.basename(first.link) + ".b4096", self.data.path, errno.EEXIST)

    def test_only_links_may_be_made(self):
        path = self.mount.link_path(str(self.number))
        for make in (os.mkdir, os.mkfifo, lambda p: os.open(p, os.O_CREAT | os.O_RDWR)):
            with self.assertRaises(OSError):
                make(path)
        with self.assertRaises(OSError):
            os.mkdir(self.standin.file("3fs-virt/other"))
        with self.assertRaises(OSError):
            os.symlink(self.data.path, self.standin.file("3fs-virt/link"))

    def test_what_is_there_cannot_be_taken_away(self):
        for remove, name in ((os.unlink, "iovs/submit-ios"), (os.unlink, "iovs/submit-ios.ph"), (os.rmdir, "iovs"), (os.rmdir, "")):
            with self.subTest(name), self.assertRaises(OSError):
                remove(os.path.join(self.standin.mount, "3fs-virt", name))
        with self.assertRaises(FileNotFoundError):
            os.unlink(self.mount.link_path(str(self.number)))

    def test_both_spellings_of_an_id(self):
        for text in (str(self.number), self.number.hex):
            link = self.mount.link_path(text)
            os.symlink(self.data.path, link)
            self.assertEqual(os.readlink(link), self.data.path)
            os.unlink(link)
