"""Each fault of faults.py: SGLang's server has it, Foreword has it not."""

import unittest

import faults
from group import Foreword
from real import Sglang
from support import Caller, wait_until

_groups = {}


def group(options: dict) -> Foreword:
    """A group started with these options, shared by the tests of this file."""
    name = tuple(sorted(options.items()))
    if name not in _groups:
        _groups[name] = Foreword(**options)
    return _groups[name]


def tearDownModule():
    while _groups:
        _groups.popitem()[1].close()


class OnSglangsServer(unittest.TestCase):
    """Where each check must fail, and for the reason it is there for."""


class OnForeword(unittest.TestCase):
    """Where each check must pass."""

    def test_confirmed_pages_survive_the_death_of_one_replica(self):
        trio = group({"replicas": 3})
        caller = Caller(trio.url(), 1000)
        self.assertEqual(caller.initialize(64).status, 204)
        keys = [f"key {number}" for number in range(32)]
        for dead in trio.replicas():
            if dead == 1:
                pages = caller.write(keys)
            trio.kill(dead)
            for alive in trio.replicas():
                caller.url = trio.url(replica=alive)
                self.assertEqual(caller.get(keys), pages, f"at replica {alive}, without replica {dead}")
                # A follower answers this by itself.
                wait_until(lambda: all(caller.exists(keys)), f"replica {alive} has caught up")
            trio.start(dead)
            trio.wait_ready()


def _on_sglang(fault):
    def test(self):
        server = Sglang()
        self.addCleanup(server.close)
        with self.assertRaisesRegex(AssertionError, fault.reason):
            fault.check(server)

    return test


def _on_foreword(fault):
    return lambda self: fault.check(group(fault.options))


for _fault in faults.ALL:
    setattr(OnSglangsServer, "test_" + _fault.check.__name__, _on_sglang(_fault))
    setattr(OnForeword, "test_" + _fault.check.__name__, _on_foreword(_fault))
