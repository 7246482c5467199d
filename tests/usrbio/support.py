"""What the tests share: the stand-in as a process, children with another uid, bounded waiting."""

import ctypes
import errno
import json
import os
import pickle
import select
import signal
import subprocess
import tempfile
import time
import traceback
import unittest

import client

CHUNK_BYTES = 1 << 20
WAIT_S = 30.0
NOBODY = 65534
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)
_settings = {}


def configure(foreword: str, work_dir: str) -> None:
    """Called once by run.py: the binary and the directory below which everything is made."""
    _settings.update(foreword=foreword, work_dir=work_dir)


def wait_until(condition, what: str, timeout_s: float = WAIT_S):
    """Polls until `condition()` is true and gives its value; AssertionError at the deadline."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class StandIn:
    """`foreword usrbiod` on fresh directories. `mount` and `backing` are its two sides."""

    def __init__(self, *options: str):
        self.dir = tempfile.mkdtemp(prefix="standin-", dir=_settings["work_dir"])
        os.chmod(self.dir, 0o755)
        self.mount, self.backing = os.path.join(self.dir, "mount"), os.path.join(self.dir, "backing")
        os.mkdir(self.mount)
        os.mkdir(self.backing)
        os.chmod(self.backing, 0o777)
        self._log = open(os.path.join(self.dir, "log"), "w+b")
        command = [_settings["foreword"], "usrbiod", "--mount", self.mount, "--backing", self.backing]
        command += ["--chunk-bytes", "1MiB", *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log, preexec_fn=_die_with_parent
        )
        try:
            self.ready = self._first_line()
            links = os.path.join(self.mount, "3fs-virt", "iovs", "submit-ios")
            self._semaphores = [os.readlink(links + suffix) for suffix in ("", ".ph", ".pl")]
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _first_line(self) -> dict:
        text, deadline_s = b"", time.monotonic() + WAIT_S
        fd = self.process.stdout.fileno()
        while b"\n" not in text:
            if not select.select([fd], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
                raise AssertionError(f"the stand-in said nothing within {WAIT_S} s: {self.log()}")
            part = os.read(fd, 4096)
            if not part:
                raise AssertionError(f"the stand-in ended before it was mounted: {self.log()}")
            text += part
        return json.loads(text.splitlines()[0])

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-4000:]

    def alive(self) -> bool:
        return self.process.poll() is None

    def file(self, name: str) -> str:
        return os.path.join(self.mount, name)

    def backing_bytes(self, name: str) -> bytes:
        with open(os.path.join(self.backing, name), "rb") as file:
            return file.read()

    def links(self) -> set:
        """Names in 3fs-virt/iovs but for the submit links, asked by another process (see client.py's caution)."""
        listing = subprocess.run(
            ["ls", "-A", os.path.join(self.mount, "3fs-virt", "iovs")], capture_output=True, text=True, check=True
        )
        return {name for name in listing.stdout.split() if not name.startswith("submit-ios")}

    def counters(self) -> dict:
        """What the stand-in counted, from its virtual file. Not a part of 3FS."""
        with open(os.path.join(self.mount, "3fs-virt", "stand-in"), "rb") as file:
            return json.load(file)

    def stop(self) -> None:
        """SIGTERM; AssertionError unless it ends well."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the stand-in did not end within {WAIT_S} s of SIGTERM: {self.log()}") from None
        finally:
            self.process.stdout.close()
        if code != 0:
            text = self.log()
            self.forget_dead()
            raise AssertionError(f"the stand-in ended with {code}: {text}")
        self._log.close()


    def forget_dead(self) -> None:
        """After the daemon was killed: detaches its mount, removes its semaphores and closes what is open."""
        detach = 2
        _libc.umount2(self.mount.encode(), detach)
        for target in self._semaphores:
            if os.path.exists(target):
                os.unlink(target)
        self.process.stdout.close()
        self._log.close()


_shared = []


def shared() -> StandIn:
    """The one stand-in without faults that most tests use."""
    if not _shared:
        _shared.append(StandIn())
    return _shared[0]


def stop_shared() -> None:
    while _shared:
        _shared.pop().stop()


class Child:
    """A forked process that runs `work(say)`; `say(value)` sends a value to the parent."""

    def __init__(self, work, uid: int = 0):
        read_end, write_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read_end)
            os._exit(_child_main(work, uid, write_end))
        os.close(write_end)
        self._from_child = os.fdopen(read_end, "rb")

    def hear(self):
        """The next value the child said. AssertionError with its traceback if it failed instead."""
        if not select.select([self._from_child], [], [], WAIT_S)[0]:
            raise AssertionError("the child said nothing")
        try:
            kind, value = pickle.load(self._from_child)
        except EOFError:
            raise AssertionError("the child ended without a word") from None
        if kind == "failed":
            raise AssertionError("in the child: " + value)
        return value

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.join()

    def join(self) -> None:
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0
            self._from_child.close()


def _child_main(work, uid, write_end) -> int:
    _die_with_parent()

    def send(kind, value):
        os.write(write_end, pickle.dumps((kind, value)))

    try:
        if uid:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            _die_with_parent()
        work(lambda value: send("said", value))
        return 0
    except BaseException:
        send("failed", traceback.format_exc())
        return 1


def in_child(work, uid: int = 0):
    """Runs `work()` in a forked process and gives its result."""
    child = Child(lambda say: say(work()), uid)
    try:
        return child.hear()
    finally:
        child.kill()


def wait_forever() -> None:
    """For a child that is to be killed."""
    while True:
        signal.pause()


class StandInTest(unittest.TestCase):
    """A test against a stand-in: `self.standin`, `self.mount`. Afterwards the daemon lives and nothing is left.

    Classes share one stand-in, but those that set `options` (its own, with these) or `own` (its own, it may die)."""

    options = ()
    own = False

    @classmethod
    def setUpClass(cls):
        cls.standin = StandIn(*cls.options) if cls.options or cls.own else shared()

    @classmethod
    def tearDownClass(cls):
        if cls.options or cls.own:
            cls.standin.stop()

    def setUp(self):
        self.mount = client.Mount.containing(self.standin.mount)
        self.addCleanup(self._nothing_left)
        self.addCleanup(self.mount.close)

    def _nothing_left(self):
        self.assertTrue(self.standin.alive(), f"the daemon has died: {self.standin.log()}")
        wait_until(lambda: not self.standin.links(), f"links are left: {self.standin.links()}")
        left = [name for name in os.listdir(client.SHM_DIR) if not name.startswith("sem.")]
        self.assertEqual(left, [], "left in /dev/shm")

    def iov(self, size: int, block_bytes: int = 0) -> client.Iov:
        iov = client.Iov.create(self.mount, size, block_bytes)
        self.addCleanup(_destroy_once, iov)
        return iov

    def ring(self, entries: int, for_read: bool, **attributes) -> client.Ring:
        ring = client.Ring(self.mount, entries, for_read, **attributes)
        self.addCleanup(_destroy_once, ring)
        return ring

    def new_file(self, content: bytes = b"") -> tuple:
        """A new file written through the mount: (name, fd opened read-write, RegisteredFile)."""
        self._files = getattr(self, "_files", 0) + 1
        name = f"{self.id().split('.', 1)[-1]}.{self._files}"
        fd = os.open(self.standin.file(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self.addCleanup(client.close_file, fd)
        os.fchmod(fd, 0o666)
        for at in range(0, len(content), CHUNK_BYTES):
            part = content[at:at + CHUNK_BYTES]
            self.assertEqual(os.pwrite(fd, part, at), len(part))
        registered = client.RegisteredFile(fd)
        self.addCleanup(registered.close)
        return name, fd, registered


def _destroy_once(thing) -> None:
    try:
        thing.destroy()
    except ValueError:
        pass  # unmapped by the test itself
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        thing.forget()  # the daemon died, and its links with it
