"""How a client recognises the mount: mountinfo, virtual inodes, submit links, ioctls."""

import fcntl
import os
import stat
import struct
import tempfile

import client
import support
from support import CHUNK_BYTES, StandInTest


class MountTest(StandInTest):
    def test_the_type_and_the_source_in_mountinfo(self):
        found = dict(client.mounts())
        self.assertIn(self.standin.mount, found)
        self.assertTrue(found[self.standin.mount].startswith("hf3fs."), found)
        self.assertNotEqual(found[self.standin.mount], "hf3fs.")

    def test_a_mount_is_found_from_a_path_below_it(self):
        os.makedirs(self.standin.file("found/below"))
        with client.Mount.containing(self.standin.file("found/below")) as mount:
            self.assertEqual(mount.path, self.standin.mount)
        with self.assertRaises(FileNotFoundError):
            client.Mount.containing(self.standin.backing)

    def test_the_ready_line_names_the_mount(self):
        self.assertIn(self.standin.mount, self.standin.ready.values(), self.standin.ready)

    def test_virtual_inodes_and_their_modes(self):
        virt = os.stat(self.standin.file("3fs-virt"))
        iovs = os.stat(self.standin.file("3fs-virt/iovs"))
        self.assertEqual(virt.st_ino, 0xFFFFFFFFFFFFFFFE)
        self.assertEqual(iovs.st_ino, 0xFFFFFFFF80000000)
        self.assertEqual(virt.st_mode, stat.S_IFDIR | 0o555)
        self.assertEqual(iovs.st_mode, stat.S_IFDIR | 0o777)

    def test_submit_links_lead_to_semaphores(self):
        targets = [os.readlink(self.mount.link_path("submit-ios" + suffix)) for suffix in ("", ".ph", ".pl")]
        self.assertEqual(len(set(targets)), 3)
        for target in targets:
            self.assertTrue(target.startswith("/dev/shm/sem."), target)
            found = os.stat(target)
            self.assertEqual(found.st_size, 32, "a sem_t")
            self.assertEqual(stat.S_IMODE(found.st_mode) & 0o666, 0o666, "any user may submit")

    def test_other_names_are_not_there(self):
        for name in ("submit-ios.px", "submit-ios.p", "submit", "00112233-4455-6677-8899-aabbccddeeff", "x" * 255):
            with self.subTest(name), self.assertRaises(FileNotFoundError):
                os.lstat(self.mount.link_path(name))

    def test_chunk_size_is_st_blksize(self):
        _, fd, _ = self.new_file(b"x")
        self.assertEqual(os.fstat(fd).st_blksize, CHUNK_BYTES)


class IoctlTest(StandInTest):
    def setUp(self):
        super().setUp()
        self.name, self.fd, _ = self.new_file(os.urandom(3 * CHUNK_BYTES))

    def test_magic(self):
        self.assertEqual(client.ask_u32(self.fd, 0x80046802), 0x8F3F5FFF)
        root = os.open(self.standin.mount, os.O_RDONLY | os.O_DIRECTORY)
        self.addCleanup(os.close, root)
        self.assertEqual(client.ask_u32(root, 0x80046802), 0x8F3F5FFF)

    def test_magic_elsewhere_is_no_answer(self):
        with tempfile.TemporaryFile() as file:
            self.assertFalse(client.is_hf3fs(file.fileno()))
            with self.assertRaises(OSError):
                client.RegisteredFile(file.fileno())

    def test_version(self):
        self.assertEqual(client.ask_u32(self.fd, 0x80046803), 1)

    def test_path_offset_is_the_length_of_the_mount_point(self):
        self.assertEqual(client.ask_u32(self.fd, 0x80046801), len(self.standin.mount))

    def test_mount_name_is_the_cluster_of_the_source(self):
        answer = bytearray(b"\xff" * 32)
        fcntl.ioctl(self.fd, 0x80206800, answer)
        name, _, _ = bytes(answer).partition(b"\0")
        self.assertLess(len(name), 32, "ends with a zero")
        self.assertEqual("hf3fs." + name.decode(), dict(client.mounts())[self.standin.mount])

    def test_fsync(self):
        fcntl.ioctl(self.fd, 0x8004680B, bytearray(4))

    def test_hardlink(self):
        """Asked of the file; the argument names the directory by its number."""
        request = bytearray(struct.pack("<Q256s", os.stat(self.standin.mount).st_ino, b"second-name"))
        self.assertEqual(len(request), 264)
        fcntl.ioctl(self.fd, 0x4108680C, request)
        self.assertEqual(os.stat(self.standin.file("second-name")).st_ino, os.fstat(self.fd).st_ino)
        with self.assertRaises(FileExistsError):
            fcntl.ioctl(self.fd, 0x4108680C, request)
        os.unlink(self.standin.file("second-name"))

    def test_punch_hole(self):
        before = self.standin.backing_bytes(self.name)
        request = bytearray(16016)
        struct.pack_into("<i4xQ", request, 0, 1, 0)
        struct.pack_into("<Q", request, 16, CHUNK_BYTES)
        struct.pack_into("<Q", request, 8016, 2 * CHUNK_BYTES)
        fcntl.ioctl(self.fd, 0x7E90680D, request)
        after = before[:CHUNK_BYTES] + bytes(CHUNK_BYTES) + before[2 * CHUNK_BYTES:]
        self.assertEqual(os.pread(self.fd, CHUNK_BYTES, CHUNK_BYTES), bytes(CHUNK_BYTES))
        self.assertEqual(self.standin.backing_bytes(self.name), after)

    def test_a_hole_is_whole_chunks(self):
        for start, end in ((1, CHUNK_BYTES), (0, CHUNK_BYTES - 1), (4096, 8192), (CHUNK_BYTES, 0), (0, (1 << 64) - 1)):
            request = bytearray(16016)
            struct.pack_into("<i4xQ", request, 0, 1, 0)
            struct.pack_into("<Q", request, 16, start)
            struct.pack_into("<Q", request, 8016, end)
            with self.subTest(start=start, end=end), self.assertRaises(OSError):
                fcntl.ioctl(self.fd, 0x7E90680D, request)
        self.assertNotIn(bytes(4096), self.standin.backing_bytes(self.name))

    def test_a_hole_list_that_is_too_long_is_refused(self):
        for count in (-1, 1001, 0x7FFFFFFF):
            request = bytearray(16016)
            struct.pack_into("<i4xQ", request, 0, count, 0)
            with self.subTest(count), self.assertRaises(OSError):
                fcntl.ioctl(self.fd, 0x7E90680D, request)

    def test_an_unknown_request_is_refused(self):
        with self.assertRaises(OSError):
            fcntl.ioctl(self.fd, 0x800468F0, bytearray(4))


class PosixTest(StandInTest):
    """Only what USRBIO clients do with files beside their rings."""

    def test_files_are_the_files_of_the_backing_directory(self):
        content = os.urandom(300_000)
        name, fd, _ = self.new_file(content)
        self.assertEqual(self.standin.backing_bytes(name), content)
        os.ftruncate(fd, 1000)
        self.assertEqual(self.standin.backing_bytes(name), content[:1000])
        os.rename(self.standin.file(name), self.standin.file("renamed"))
        self.assertFalse(os.path.exists(os.path.join(self.standin.backing, name)))
        self.assertEqual(self.standin.backing_bytes("renamed"), content[:1000])
        os.unlink(self.standin.file("renamed"))
        self.assertFalse(os.path.exists(os.path.join(self.standin.backing, "renamed")))

    def test_a_file_number_stays_while_it_is_open(self):
        name, fd, registered = self.new_file(b"abc")
        again = os.open(self.standin.file(name), os.O_RDONLY)
        self.addCleanup(os.close, again)
        self.assertEqual(os.fstat(again).st_ino, registered.number)

    def test_directories(self):
        os.mkdir(self.standin.file("directory"))
        with open(self.standin.file("directory/file"), "wb") as file:
            file.write(b"abc")
        self.assertEqual(os.listdir(self.standin.file("directory")), ["file"])
        os.unlink(self.standin.file("directory/file"))
        os.rmdir(self.standin.file("directory"))
        self.assertFalse(os.path.exists(self.standin.file("directory")))

    def test_another_user_meets_the_files_permissions(self):
        name, fd, _ = self.new_file(b"abc")
        os.fchmod(fd, 0o600)
        path = self.standin.file(name)
        with self.assertRaises(AssertionError) as refused:
            support.in_child(lambda: os.open(path, os.O_RDONLY), uid=support.NOBODY)
        self.assertIn("PermissionError", str(refused.exception))
