"""Whose memory it is: other processes, other users, and owners that die."""

import errno
import os
import threading

import client
from support import NOBODY, Child, StandInTest, in_child, wait_forever, wait_until


def _errno_of(work) -> int:
    """The errno that `work()` fails with; 0 if it does not."""
    try:
        work()
    except OSError as error:
        return error.errno
    return 0


class OwnerTest(StandInTest):
    def test_another_process_opens_an_iov_by_its_id(self):
        content = os.urandom(8192)
        _, _, file = self.new_file(content)
        iov = self.iov(65536, block_bytes=16384)
        path, number = self.standin.mount, file.number

        def work():
            with client.Mount.containing(path) as mount:
                opened = client.Iov.open(mount, iov.id, 65536, 16384)
                ring = client.Ring(mount, 4, for_read=True)
                results = ring.run([(opened, 16384, number, 0, 8192)])
                opened.memory[:5] = b"hello"
                ring.destroy()
                opened.forget()
                return results

        self.assertEqual(in_child(work), {0: 8192})
        self.assertEqual(iov.memory[16384:24576], content)
        self.assertEqual(iov.memory[:5], b"hello")

    def test_an_iov_whose_file_is_unlinked_serves_on(self):
        content = os.urandom(4096)
        _, _, file = self.new_file(content)
        iov, ring = self.iov(4096), self.ring(4, for_read=True)
        iov.unlink()
        self.assertFalse(os.path.exists(os.readlink(iov.link)))
        self.assertEqual(ring.run([(iov, 0, file, 0, 4096)]), {0: 4096})
        self.assertEqual(iov.memory[:], content)

    def test_other_users_links_are_eperm_and_unknown_ones_enoent(self):
        iov, ring = self.iov(4096), self.ring(4, for_read=True)
        unknown = self.mount.link_path("00112233-4455-6677-8899-aabbccddeeff")
        self.assertEqual(os.readlink(iov.link), os.path.join("/dev/shm", os.path.basename(os.readlink(iov.link))))

        def work():
            return [(_errno_of(lambda: os.lstat(path)), _errno_of(lambda: os.readlink(path)), _errno_of(lambda: os.unlink(path)))
                    for path in (iov.link, ring.link, unknown)]

        refused, not_there = (errno.EPERM,) * 3, (errno.ENOENT,) * 3
        self.assertEqual(in_child(work, uid=NOBODY), [refused, refused, not_there])
        os.lstat(iov.link)
        os.lstat(ring.link)

    def test_another_user_has_its_own(self):
        content = os.urandom(4096)
        _, _, file = self.new_file(content)
        path, number = self.standin.mount, file.number

        def work():
            with client.Mount.containing(path) as mount:
                iov, ring = client.Iov.create(mount, 4096), client.Ring(mount, 4, for_read=True)
                results = ring.run([(iov, 0, number, 0, 4096)])
                read = iov.memory[:]
                ring.destroy()
                iov.destroy()
                return results, read

        self.assertEqual(in_child(work, uid=NOBODY), ({0: 4096}, content))

    def test_another_users_iov_is_no_buffer(self):
        secret = os.urandom(4096)
        _, _, file = self.new_file(bytes(4096))
        name, fd, target = self.new_file(bytes(4096))
        iov = self.iov(4096)
        iov.memory[:] = secret
        path, numbers = self.standin.mount, (file.number, target.number)

        def work():
            with client.Mount.containing(path) as mount:
                reader, writer = client.Ring(mount, 4, for_read=True), client.Ring(mount, 4, for_read=False)
                results = reader.run([(iov.id, 0, numbers[0], 0, 4096)]), writer.run([(iov.id, 0, numbers[1], 0, 4096)])
                reader.destroy()
                writer.destroy()
                return results[0][0], results[1][0]

        read, written = in_child(work, uid=NOBODY)
        self.assertLess(read, 0)
        self.assertLess(written, 0)
        self.assertEqual(iov.memory[:], secret, "nothing was read into it")
        self.assertEqual(self.standin.backing_bytes(name), bytes(4096), "nothing was written from it")

    def test_links_are_dropped_when_their_owner_is_killed(self):
        path = self.standin.mount

        def work(say):
            mount = client.Mount.containing(path)
            things = [client.Iov.create(mount, 4096), client.Ring(mount, 4, True), client.Ring(mount, 4, False, priority="high")]
            say(([os.path.basename(thing.link) for thing in things], os.readlink(things[0].link)))
            wait_forever()

        child = Child(work)
        try:
            names, shm_path = child.hear()
            mine = self.iov(4096)
            self.assertLessEqual(set(names), self.standin.links())
        finally:
            child.kill()
        wait_until(lambda: not set(names) & self.standin.links(), f"the dead owner's links stay: {names}")
        self.assertTrue(os.path.exists(shm_path), "the daemon removes links, not memory")
        os.unlink(shm_path)
        self.assertIn(os.path.basename(mine.link), self.standin.links(), "another process's iov stays")

    def test_an_owner_killed_in_the_middle_of_its_ios(self):
        _, _, file = self.new_file(os.urandom(1 << 20))
        path, number = self.standin.mount, file.number

        def work(say):
            mount = client.Mount.containing(path)
            iov, ring = client.Iov.create(mount, 1 << 20), client.Ring(mount, 64, for_read=True)
            iov.unlink()
            say(os.path.basename(ring.link))
            while True:
                ring.run([(iov, part * 16384, number, part * 16384, 16384) for part in range(64)])

        for _ in range(5):
            child = Child(work)
            name = child.hear()
            child.kill()
            wait_until(lambda: name not in self.standin.links(), "the ring's link stays")
        iov, ring = self.iov(4096), self.ring(4, for_read=True)
        self.assertEqual(ring.run([(iov, 0, file, 0, 4096)]), {0: 4096})

    def test_links_are_dropped_when_the_liveness_handle_is_closed(self):
        iov, ring = self.iov(4096), self.ring(4, for_read=True)
        names = {os.path.basename(iov.link), os.path.basename(ring.link)}
        self.assertLessEqual(names, self.standin.links())
        self.mount.close()
        wait_until(lambda: not names & self.standin.links(), "links without a liveness handle")

    def test_a_link_made_by_another_thread_is_dropped_with_its_process(self):
        """FUSE names the thread that asked: the daemon must find the process."""
        path = self.standin.mount

        def work(say):
            mount, made = client.Mount.containing(path), []
            thread = threading.Thread(target=lambda: made.append(client.Iov.create(mount, 4096)))
            thread.start()
            thread.join()
            made[0].unlink()
            say(os.path.basename(made[0].link))
            wait_forever()

        child = Child(work)
        try:
            name = child.hear()
            self.assertIn(name, self.standin.links())
        finally:
            child.kill()
        wait_until(lambda: name not in self.standin.links(), "a thread's link stays")
