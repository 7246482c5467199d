"""A small USRBIO client in plain Python: Mount, Iov, Ring, RegisteredFile.

Written from the facts about 3FS's protocol alone; it shares no code with the Rust client or with the stand-in, and is
meant to be read. One process, one thread a ring. Example:

    with Mount.containing("/mnt/3fs/dir") as mount:
        iov = Iov.create(mount, 1 << 20)
        ring = Ring(mount, entries=8, for_read=True)
        with open("/mnt/3fs/dir/file", "rb") as file, RegisteredFile(file.fileno()) as registered:
            ring.prepare(iov, 0, registered, 0, 4096, userdata=7)
            ring.submit()
            [done] = ring.wait(most=1)       # done.userdata == 7, done.result: bytes, or -errno
        ring.destroy()
        iov.destroy()

A caution: the daemon drops every iov and ring of a process when that process closes a handle of `3fs-virt/iovs`. So
never list that directory from a process that has any (os.listdir opens and closes it); ask another process.
"""

import collections
import ctypes
import errno
import fcntl
import mmap
import os
import struct
import time
import uuid

from layout import CQE_HEAD, CQE_TAIL, SQE_HEAD, SQE_TAIL, RingMemory, ring_bytes

FS_TYPE = "fuse.hf3fs"
SHM_DIR = "/dev/shm"
IOC_GET_MOUNT_NAME = 0x80206800
IOC_GET_PATH_OFFSET = 0x80046801
IOC_GET_MAGIC = 0x80046802
IOC_GET_VERSION = 0x80046803
IOC_FSYNC = 0x8004680B
IOC_HARDLINK = 0x4108680C
IOC_PUNCH_HOLE = 0x7E90680D
MAGIC = 0x8F3F5FFF
PRIORITY_SUFFIX = {"high": ".ph", "normal": "", "low": ".pl"}

Completion = collections.namedtuple("Completion", "index result userdata")


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.sem_open.restype = ctypes.c_void_p
_libc.sem_open.argtypes = [ctypes.c_char_p, ctypes.c_int]
for _name in ("sem_post", "sem_close"):
    getattr(_libc, _name).argtypes = [ctypes.c_void_p]
_libc.sem_timedwait.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Timespec)]


def _raise_errno(what: str):
    code = ctypes.get_errno()
    raise OSError(code, os.strerror(code), what)


def sem_timedwait(address: int, deadline_s: float) -> bool:
    """Takes one from a semaphore; False at `deadline_s` (CLOCK_REALTIME, absolute)."""
    at = _Timespec(int(deadline_s), int(deadline_s % 1 * 1e9))
    while _libc.sem_timedwait(address, ctypes.byref(at)) != 0:
        if ctypes.get_errno() == errno.ETIMEDOUT:
            return False
        if ctypes.get_errno() != errno.EINTR:
            _raise_errno("sem_timedwait")
    return True


def mounts() -> list:
    """Every 3FS mount of this process's namespace: [(mount point, source)], from /proc/self/mountinfo."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields, _, rest = line.rstrip("\n").partition(" - ")
            fs_type, source = rest.split(" ")[:2]
            point = _unescape(fields.split(" ")[4])
            if fs_type == FS_TYPE and os.path.isdir(os.path.join(point, "3fs-virt")):
                found.append((point, _unescape(source)))
    return found


def _unescape(field: str) -> str:
    for code in ("040", "011", "012", "134"):
        field = field.replace("\\" + code, chr(int(code, 8)))
    return field


def ask_u32(fd: int, request: int) -> int:
    """The 32-bit answer of one of the ioctls that answer a number. OSError where it is not known."""
    answer = bytearray(4)
    fcntl.ioctl(fd, request, answer)
    return struct.unpack("<I", answer)[0]


def close_file(fd: int) -> None:
    """Closes a file of the mount. Where the daemon died the file is closed too, though the kernel says ENOTCONN."""
    try:
        os.close(fd)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise


def is_hf3fs(fd: int) -> bool:
    """Whether an open file lies on 3FS."""
    try:
        return ask_u32(fd, IOC_GET_MAGIC) == MAGIC
    except OSError:
        return False


class Mount:
    """One 3FS mount. Its open handle of `3fs-virt/iovs` is what tells the daemon that this process lives."""

    def __init__(self, path: str):
        self.path = path
        self.iovs = os.path.join(path, "3fs-virt", "iovs")
        self._alive = os.open(self.iovs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._semaphores = {}

    @classmethod
    def containing(cls, path: str) -> "Mount":
        """The mount that holds `path`; FileNotFoundError if it is not on 3FS."""
        path = os.path.realpath(path)
        points = [point for point, _ in mounts() if path == point or path.startswith(point.rstrip("/") + "/")]
        if not points:
            raise FileNotFoundError(errno.ENOENT, "not on a 3FS mount", path)
        return cls(max(points, key=len))

    def link_path(self, name: str) -> str:
        return os.path.join(self.iovs, name)

    def semaphore(self, priority: str) -> int:
        """The address of the semaphore that wakes the daemon for the rings of one priority. Opened once."""
        if priority not in self._semaphores:
            target = os.readlink(self.link_path("submit-ios" + PRIORITY_SUFFIX[priority]))
            prefix = SHM_DIR + "/sem."
            if not target.startswith(prefix):
                raise OSError(errno.EINVAL, "not a named semaphore", target)
            opened = _libc.sem_open(("/" + target[len(prefix):]).encode(), 0)
            if not opened:
                _raise_errno("sem_open " + target)
            self._semaphores[priority] = opened
        return self._semaphores[priority]

    def close(self) -> None:
        """Gives up the liveness handle: the daemon drops whatever this process still has."""
        for opened in self._semaphores.values():
            _libc.sem_close(opened)
        self._semaphores.clear()
        if self._alive is not None:
            close_file(self._alive)
            self._alive = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Shm:
    """A file in /dev/shm, mapped shared and read-write."""

    def __init__(self, name: str, size: int, create: bool):
        self.path = os.path.join(SHM_DIR, name)
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
        fd = os.open(self.path, flags, 0o666)
        try:
            if create:
                os.fchmod(fd, 0o666)
                os.ftruncate(fd, size)
            self.memory = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except BaseException:
            if create:
                os.unlink(self.path)
            raise
        finally:
            os.close(fd)

    def unlink(self) -> None:
        _unlink_if_there(self.path)


def _unlink_if_there(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


class Iov:
    """Registered memory. `id` is 16 bytes; `memory` an mmap of `size` bytes; block_bytes 0: no blocks."""

    def __init__(self, iov_id: bytes, shm: Shm, link: str):
        self.id, self.memory, self.link = iov_id, shm.memory, link
        self._shm = shm

    @classmethod
    def create(cls, mount: Mount, size: int, block_bytes: int = 0) -> "Iov":
        """Makes the memory and registers it with the daemon."""
        number = uuid.uuid4()
        shm = Shm("hf3fs-iov-" + str(uuid.uuid4()), size, create=True)
        link = mount.link_path(iov_name(number, block_bytes))
        try:
            os.symlink(shm.path, link)
        except BaseException:
            shm.unlink()
            shm.memory.close()
            raise
        return cls(number.bytes, shm, link)

    @classmethod
    def open(cls, mount: Mount, iov_id: bytes, size: int, block_bytes: int = 0) -> "Iov":
        """Opens memory that another process of the same user registered. That process destroys it; this one forgets it."""
        link = mount.link_path(iov_name(uuid.UUID(bytes=iov_id), block_bytes))
        shm = Shm(os.path.basename(os.readlink(link)), size, create=False)
        return cls(iov_id, shm, link)

    def unlink(self) -> None:
        """Removes the name in /dev/shm only: afterwards nothing is left there if this process dies."""
        self._shm.unlink()

    def destroy(self) -> None:
        """Removes memory file and link, and unmaps."""
        self._shm.unlink()
        _unlink_if_there(self.link)
        self.memory.close()

    def forget(self) -> None:
        """Unmaps only: for the opener, or where the daemon has dropped the link."""
        self.memory.close()


def iov_name(number: uuid.UUID, block_bytes: int = 0) -> str:
    return str(number) + (f".b{block_bytes}" if block_bytes else "")


def ring_name(number: uuid.UUID, for_read, io_depth=0, priority="normal", timeout_ms=0, flags=0) -> str:
    name = f"{number}.{'r' if for_read else 'w'}{io_depth}{PRIORITY_SUFFIX[priority]}.t{timeout_ms}"
    return name + (f".f{flags:b}" if flags else "")


class RegisteredFile:
    """A file as a ring names it. Registration sends nothing: magic, inode number, a dup of the fd."""

    def __init__(self, fd: int):
        if not is_hf3fs(fd):
            raise OSError(errno.EBADF, "not a file on 3FS")
        self.number = os.fstat(fd).st_ino
        self._fd = os.dup(fd)

    def close(self) -> None:
        if self._fd is not None:
            close_file(self._fd)
            self._fd = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Ring:
    """A queue of I/Os in one direction. Its memory file is unlinked as soon as the daemon has seen it."""

    def __init__(self, mount: Mount, entries: int, for_read: bool, io_depth=0, priority="normal", timeout_ms=0, flags=0):
        self.entries, self.for_read = entries, for_read
        self._submit_semaphore = mount.semaphore(priority)
        self.link = mount.link_path(ring_name(uuid.uuid4(), for_read, io_depth, priority, timeout_ms, flags))
        shm = Shm("hf3fs-iov-" + str(uuid.uuid4()), ring_bytes(entries), create=True)
        self.shm_path = shm.path
        try:
            os.symlink(shm.path, self.link)
        except BaseException:
            shm.memory.close()
            raise
        finally:
            shm.unlink()
        self.ring = RingMemory(shm.memory)
        self._start()

    @classmethod
    def over(cls, memory: mmap.mmap) -> "Ring":
        """A ring on memory that no daemon knows: to look at the bytes."""
        self = cls.__new__(cls)
        self.link, self.ring = None, RingMemory(memory)
        self.entries = self.ring.cells - 1
        self._start()
        return self

    def _start(self):
        # All E cells of args take their turn; at most `entries` I/Os are open, else completions could overrun. The last
        # comes first, so that a slot never is its place in a queue by accident.
        self._free = collections.deque(reversed(range(self.ring.cells)))
        self._open = {}

    def prepare(self, iov, iov_offset, file, file_offset, length, userdata=0) -> int:
        """Queues one I/O and gives its slot. BlockingIOError (EAGAIN) when the ring is full. Bounds are the daemon's
        to check, so that tests can break them. `file`: a RegisteredFile or a bare number; `iov`: an Iov or a bare id."""
        ring = self.ring
        head = ring.load(SQE_HEAD)
        if len(self._open) >= self.entries or ring.next(head) == ring.load(SQE_TAIL):
            raise BlockingIOError(errno.EAGAIN, "the ring is full")
        slot = self._free.popleft()
        self._open[slot] = userdata
        number = file.number if isinstance(file, RegisteredFile) else file
        iov_id = iov.id if isinstance(iov, Iov) else iov
        ring.set_args(slot, iov_id, iov_offset, number, file_offset, length, userdata)
        ring.set_sqe(head, slot, userdata)
        ring.store(SQE_HEAD, ring.next(head))
        return slot

    def submit(self) -> None:
        """Wakes the daemon. Without it nothing of this ring is looked at."""
        if _libc.sem_post(self._submit_semaphore) != 0:
            _raise_errno("sem_post")

    def wait(self, most: int, least: int = 1, timeout_s: float = 20.0) -> list:
        """Up to `most` completions; fewer than `least` only at the deadline."""
        deadline_s = time.time() + timeout_s
        done = self.reap(most)
        while len(done) < least and sem_timedwait(self.ring.semaphore, deadline_s):
            done += self.reap(most - len(done))
        return done + self.reap(most - len(done))

    def reap(self, most: int) -> list:
        """The completions that are there, without waiting."""
        ring, done = self.ring, []
        while len(done) < most and ring.load(CQE_TAIL) != ring.load(CQE_HEAD):
            tail = ring.load(CQE_TAIL)
            completion = Completion(*ring.cqe(tail))
            ring.store(CQE_TAIL, ring.next(tail))
            if self._open.get(completion.index) != completion.userdata:
                raise AssertionError(f"a completion for an I/O that is not open: {completion}")
            del self._open[completion.index]
            self._free.append(completion.index)
            done.append(completion)
        return done

    def run(self, ios: list, timeout_s: float = 20.0) -> dict:
        """Prepares (iov, iov offset, file, file offset, length) tuples in one batch; {position: result} of those done."""
        for position, io in enumerate(ios):
            self.prepare(*io, userdata=position)
        self.submit()
        return {c.userdata: c.result for c in self.wait(len(ios), len(ios), timeout_s)}

    def destroy(self) -> None:
        """Removes the link and unmaps; I/Os still open complete into memory nobody reads."""
        _unlink_if_there(self.link)
        self.ring.close()

    def forget(self) -> None:
        """Unmaps only: where the daemon has dropped the link."""
        self.ring.close()
