"""The client's bytes against the facts' literals. No daemon: a ring on plain memory, and a thread that serves it."""

import mmap
import os
import struct
import threading
import unittest
import uuid

import client
import layout


class LayoutTest(unittest.TestCase):
    def test_sizes(self):
        self.assertEqual(layout.ring_bytes(1), 4336)
        self.assertEqual(layout.ring_bytes(4), 4624)
        self.assertEqual(layout.ring_bytes(1023), 4144 + 96 * 1024)
        self.assertEqual([layout.cells_of(layout.ring_bytes(n)) for n in (1, 4, 255, 1023)], [2, 5, 256, 1024])

    def test_requests(self):
        self.assertEqual(client.IOC_GET_MOUNT_NAME, 0x80206800)
        self.assertEqual(client.IOC_GET_PATH_OFFSET, 0x80046801)
        self.assertEqual(client.IOC_GET_MAGIC, 0x80046802)
        self.assertEqual(client.IOC_GET_VERSION, 0x80046803)
        self.assertEqual(client.IOC_FSYNC, 0x8004680B)
        self.assertEqual(client.IOC_HARDLINK, 0x4108680C)
        self.assertEqual(client.IOC_PUNCH_HOLE, 0x7E90680D)
        self.assertEqual(client.MAGIC, 0x8F3F5FFF)

    def test_names(self):
        number = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
        self.assertEqual(client.iov_name(number), "00112233-4455-6677-8899-aabbccddeeff")
        self.assertEqual(client.iov_name(number, 65536), "00112233-4455-6677-8899-aabbccddeeff.b65536")
        self.assertEqual(client.ring_name(number, True), "00112233-4455-6677-8899-aabbccddeeff.r0.t0")
        self.assertEqual(
            client.ring_name(number, False, io_depth=8, priority="high", timeout_ms=30, flags=2),
            "00112233-4455-6677-8899-aabbccddeeff.w8.ph.t30.f10",
        )
        self.assertEqual(
            client.ring_name(number, True, io_depth=2, priority="low", flags=3),
            "00112233-4455-6677-8899-aabbccddeeff.r2.pl.t0.f11",
        )

    def test_a_prepared_io_byte_by_byte(self):
        memory = mmap.mmap(-1, 4624)
        ring = client.Ring.over(memory)
        iov_id = bytes(range(16))
        ring.prepare(iov_id, 0x1111, 0x2222, 0x3333, 0x4444, userdata=0x5555)
        ring.prepare(iov_id, 1, 2, 3, 4, userdata=5)
        self.assertEqual(memory[0:16], struct.pack("<iiii", 2, 0, 0, 0))
        self.assertEqual(memory[16:184], bytes(168), "args 0 to 2 are not used yet")
        self.assertEqual(memory[184:240], iov_id + struct.pack("<QQQQQ", 1, 2, 3, 4, 5), "args 3")
        self.assertEqual(memory[240:256], iov_id, "args 4")
        self.assertEqual(memory[256:296], struct.pack("<QQQQQ", 0x1111, 0x2222, 0x3333, 0x4444, 0x5555))
        self.assertEqual(memory[296:416], bytes(120), "completions")
        self.assertEqual(memory[416:448], struct.pack("<iiQiiQ", 4, 0, 0x5555, 3, 0, 5))
        self.assertEqual(memory[448:], bytes(4624 - 448))

    def test_a_completion_byte_by_byte(self):
        memory = mmap.mmap(-1, 4624)
        ring = client.Ring.over(memory)
        ring.prepare(bytes(16), 0, 9, 0, 8, userdata=77)
        memory[296:320] = struct.pack("<iiqQ", 4, 0, -5, 77)
        self.assertEqual(ring.reap(4), [])
        memory[8:12] = struct.pack("<i", 1)
        self.assertEqual(ring.reap(4), [(4, -5, 77)])
        self.assertEqual(memory[12:16], struct.pack("<i", 1))

    def test_the_semaphore_is_behind_the_last_cell(self):
        memory = mmap.mmap(-1, 4624)
        self.assertEqual(client.Ring.over(memory).ring.semaphore - layout.address_of(memory), 496)

    def test_full_is_entries_and_reaping_makes_room(self):
        memory = mmap.mmap(-1, 4624)
        ring = client.Ring.over(memory)
        for _ in range(4):
            ring.prepare(bytes(16), 0, 9, 0, 8)
        with self.assertRaises(BlockingIOError):
            ring.prepare(bytes(16), 0, 9, 0, 8)
        memory[4:8] = struct.pack("<i", 4)
        with self.assertRaises(BlockingIOError, msg="taken by the daemon, but still open"):
            ring.prepare(bytes(16), 0, 9, 0, 8)
        memory[296:320] = struct.pack("<iiqQ", 2, 0, 8, 0)
        memory[8:12] = struct.pack("<i", 1)
        self.assertEqual(len(ring.reap(1)), 1)
        ring.prepare(bytes(16), 0, 9, 0, 8)

    def test_a_completion_of_nothing_is_noticed(self):
        memory = mmap.mmap(-1, 4624)
        ring = client.Ring.over(memory)
        memory[296:320] = struct.pack("<iiqQ", 0, 0, 8, 0)
        memory[8:12] = struct.pack("<i", 1)
        with self.assertRaises(AssertionError):
            ring.reap(1)

    def test_a_server_in_a_thread_sees_every_io_once(self):
        memory = mmap.mmap(-1, 4624)
        ring = client.Ring.over(memory)
        count, served = 2000, []
        stop = threading.Event()
        server = threading.Thread(target=_serve, args=(memory, served, stop))
        server.start()
        self.addCleanup(server.join)
        self.addCleanup(stop.set)
        sent, reaped, rounds = 0, [], 0
        while len(reaped) < count:
            rounds += 1
            self.assertLess(rounds, 50_000_000)
            if sent < count:
                try:
                    ring.prepare(bytes(16), 0, 9, sent, 8, userdata=sent)
                    sent += 1
                except BlockingIOError:
                    os.sched_yield()
            reaped += [done.userdata for done in ring.reap(4)]
        self.assertEqual(served, list(range(count)))
        self.assertEqual(sorted(reaped), list(range(count)))


def _serve(memory, served, stop):
    """A daemon of 20 lines for a ring of five cells, from the facts' offsets."""
    while not stop.is_set():
        head, tail, cqe_head, cqe_tail = struct.unpack_from("<iiii", memory, 0)
        if head == tail or (cqe_head + 1) % 5 == cqe_tail:
            os.sched_yield()
            continue
        index, userdata = struct.unpack_from("<i4xQ", memory, 416 + 16 * tail)
        _, _, file, offset, length, again = struct.unpack_from("<16sQQQQQ", memory, 16 + 56 * index)
        served.append(offset if (file, again) == (9, userdata) else None)
        struct.pack_into("<iiqQ", memory, 296 + 24 * cqe_head, index, 0, length, userdata)
        struct.pack_into("<i", memory, 4, (tail + 1) % 5)
        struct.pack_into("<i", memory, 8, (cqe_head + 1) % 5)
