"""The faults of SGLang's metadata server, each as a function that takes a server and asserts what should be.

test_faults.py runs each against SGLang's server, where it must fail with the reason that stands beside it, and against
Foreword, where it must pass."""

import dataclasses
import itertools
import time

from support import Caller, new_dir, wait_until

PROTECTION_S = 4.0
REST_S = 3.0
ATTEMPTS = 5
# How long pages may take to come back. SGLang's server has nothing that would bring them back later.
LEAK_PATIENCE_S = {"Foreword": 60.0, "SGLang's server": 2.0}

_ranks = itertools.count(1)
ALL = []


@dataclasses.dataclass
class Fault:
    check: object
    reason: str
    options: dict


def fault(reason: str, **options):
    """Registers a function; `reason`: what it says of SGLang's server; `options`: how Foreword is started for it."""

    def register(check):
        ALL.append(Fault(check, reason, options))
        return check

    return register


def new_file(server, pages: int) -> Caller:
    caller = Caller(server.url(), next(_ranks))
    answer = caller.initialize(pages)
    assert answer.status == 204, f"initialize: {answer}"
    return caller


def reserve_one(caller: Caller, key: str) -> int:
    ((known, page),) = caller.reserve([key])
    assert not known, f"{key} was written before"
    return page


def full_file(server) -> Caller:
    """A file of two pages, both written, on a server that gives a used page to another writer when it may."""
    caller = new_file(server, 2)
    caller.write(["a", "b"])
    # A leader that is new in office gives no used page away for a protection time.
    page = wait_until(lambda: [page for page in [reserve_one(caller, "c")] if page >= 0], "a page is evicted")
    caller.confirm([["c", page[0]]])
    return caller


@fault("a reader was told of page . and it was given to another writer", protection=f"{PROTECTION_S:.0f}s")
def a_page_that_a_reader_was_told_of_is_not_given_to_another_writer(server):
    caller = full_file(server)
    for attempt in range(ATTEMPTS):
        # b and c have the two pages; b is read. Another writer wants two pages.
        told_s = time.monotonic()
        (told,) = caller.get(["b"])
        given = [page for _, page in caller.reserve(["d", "e"])]
        if time.monotonic() - told_s > PROTECTION_S:
            caller.confirm([], [page for page in given if page >= 0])
            caller = full_file(server)
            continue  # the machine was too slow to say anything
        assert told not in given, f"a reader was told of page {told} and it was given to another writer"
        assert sorted(given) == [-1, 1 - told], f"the page that nobody reads: {given}, read: {told}"
        again = wait_until(lambda: [page for page in [reserve_one(caller, "e")] if page >= 0], "the protection ends")
        assert again == [told]
        assert time.monotonic() - told_s >= PROTECTION_S, "the protection ended early"
        return
    raise AssertionError(f"{ATTEMPTS} attempts took longer than {PROTECTION_S} s")


def taken_away(server, take_away) -> None:
    for _ in range(ATTEMPTS):
        caller = new_file(server, 1)
        caller.write(["a"])
        told_s = time.monotonic()
        (told,) = caller.get(["a"])
        take_away(caller)
        given = reserve_one(caller, "b")
        if time.monotonic() - told_s <= PROTECTION_S:
            assert given != told, f"a reader was told of page {told} and it was given to another writer"
            assert given == -1
            return
    raise AssertionError(f"{ATTEMPTS} attempts took longer than {PROTECTION_S} s")


@fault("a reader was told of page . and it was given to another writer", protection=f"{PROTECTION_S:.0f}s")
def a_deleted_page_is_not_given_to_another_writer_under_a_reader(server):
    taken_away(server, lambda caller: caller.post("delete_keys", keys=["a"]))


@fault("a reader was told of page . and it was given to another writer", protection=f"{PROTECTION_S:.0f}s")
def a_cleared_page_is_not_given_to_another_writer_under_a_reader(server):
    taken_away(server, lambda caller: caller.post("clear"))


@fault("was released and was given to another writer at once", write_rest=f"{REST_S:.0f}s", protection="1ms")
def a_released_page_rests(server):
    """Its writer gave up on a write: the write may still be under way."""
    for _ in range(ATTEMPTS):
        caller = new_file(server, 1)
        released_s = time.monotonic()
        page = reserve_one(caller, "a")
        caller.confirm([], [page])
        given = reserve_one(caller, "b")
        if time.monotonic() - released_s > REST_S:
            continue  # the machine was too slow to say anything
        assert given != page, f"page {page} was released and was given to another writer at once"
        wait_until(lambda: reserve_one(caller, "b") == page, "the rest ends")
        return
    raise AssertionError(f"{ATTEMPTS} attempts took longer than {REST_S} s")


@fault("two writers of one key have two pages")
def two_writers_of_one_key_have_one_page(server):
    caller = new_file(server, 4)
    one, other = reserve_one(caller, "a"), reserve_one(caller, "a")
    assert one == other, f"two writers of one key have two pages: {one}, {other}"
    for _ in range(2):  # both have written
        assert caller.confirm([["a", one]]).status == 204
    assert caller.get(["a"]) == [one]


@fault("a page has leaked")
def no_page_leaks_when_two_wrote_one_key(server):
    caller = new_file(server, 4)
    pages = [reserve_one(caller, "a") for _ in range(2)]
    for page in pages:
        caller.confirm([["a", page]])
    caller.post("delete_keys", keys=["a"])
    everything(server, caller, 4)


def everything(server, caller: Caller, pages: int) -> None:
    """All pages of a file can be had by one writer at once, in the end."""
    keys = [f"new {number}" for number in range(pages)]
    patience_s = LEAK_PATIENCE_S[server.name]

    def all_pages():
        answer = caller.post("reserve_and_allocate_page_indices", keys=[[key, ""] for key in keys])
        if answer.status != 200:
            return False
        given = [page for _, page in answer.json()["indices"]]
        return sorted(given) == list(range(pages))

    try:
        wait_until(all_pages, "all pages", patience_s)
    except AssertionError as error:
        raise AssertionError(f"a page has leaked: {caller.post('reserve_and_allocate_page_indices', keys=[['x', '']])}") from error


@fault("one key twice in a batch has two pages")
def one_key_twice_in_a_batch_has_one_page(server):
    (_, one), (_, other) = new_file(server, 4).reserve(["a", "a"])
    assert one == other, f"one key twice in a batch has two pages: {one}, {other}"


@fault("a page has leaked", reservation="1s", protection="1ms")
def a_writer_that_died_gives_its_pages_back(server):
    caller = new_file(server, 4)
    assert sorted(page for _, page in caller.reserve(list("abcd"))) == [0, 1, 2, 3]
    everything(server, caller, 4)


@fault("reserve of 3 keys: HTTP 500")
def when_all_pages_are_reserved_the_answer_is_no_page(server):
    caller = new_file(server, 2)
    assert caller.reserve(list("abc")) == [[False, 1], [False, 0], [False, -1]]


@fault("another model has this key")
def models_on_one_server_share_no_key(server):
    one, other = (Caller(url, 0) for url in server.urls_of_models(2))
    for model in (one, other):
        model.initialize(4)
    one.write(["a"])
    assert other.exists(["a"]) == [False], "another model has this key, and its page has other bytes and another size"
    assert other.get(["a"]) == [None]


@fault("initialize with another num_pages: 204")
def another_size_is_refused(server):
    caller = new_file(server, 8)
    answer = caller.initialize(16)
    assert answer.status == 409, f"initialize with another num_pages: {answer}"
    assert "8" in answer.json()["detail"] and "16" in answer.json()["detail"], answer


@fault("lost in a crash", replicas=3)
def what_was_confirmed_survives_kill_9(server):
    caller = new_file(server, 64)
    keys = [f"key {number}" for number in range(32)]
    pages = caller.write(keys)
    server.kill_and_restart()
    caller.url = server.url()
    answer = caller.post("get_page_indices", keys=keys)
    assert answer.status == 200 and answer.json()["indices"] == pages, f"lost in a crash: {answer}"
    wait_until(lambda: all(caller.exists(keys)), "the replica has caught up")
    # What is given out now is nobody's.
    new = [page for _, page in caller.reserve([f"new {number}" for number in range(32)])]
    assert not set(new) & set(pages), f"{new} {pages}"


@fault("wrong bytes")
def a_hole_in_a_batch_puts_no_page_into_a_wrong_buffer(server):
    from engine import Engine

    for kind in ("mla", "mha"):
        for entries in (1, 8):
            holes_in(Engine(server.urls_of_models(4)[(kind == "mha") + 2 * (entries == 1)], new_dir("engine-"), kind=kind,
                            entries=entries))


def holes_in(engine) -> None:
    try:
        keys = [f"page {number}" for number in range(12)]
        assert all(engine.set(keys))
        parts = [f"{keys[3]}-k", f"{keys[3]}-v"] if engine.storage.mha_zero_copy else [keys[3]]
        # Evicted between SGLang's `exists` and its get.
        engine.storage.metadata_client.delete_keys(0, parts)
        done = engine.get(keys)
        assert not done[3]
        assert engine.get(keys[4:]) == [True] * 8, "pages that are there"
    finally:
        engine.storage.clear()
        engine.close()


@fault("the file client has closed itself")
def a_hole_in_a_batch_does_not_close_the_file_client(server):
    """SGLang's USRBIO client closes itself, for good, when it is given more buffers than offsets; the mock does not look."""
    from engine import Engine

    engine = Engine(server.urls_of_models(1)[0], new_dir("engine-"))
    try:
        (file_client,) = engine.storage.clients
        file_client.check = lambda offsets, tensors: check_as_usrbio_client_does(file_client, offsets, tensors)
        keys = [f"page {number}" for number in range(12)]
        assert all(engine.set(keys))
        engine.storage.metadata_client.delete_keys(0, [keys[3]])
        try:
            engine.get(keys)
        except ValueError as error:
            raise AssertionError(f"the file client has closed itself: {error}") from error
        assert engine.get(keys[4:]) == [True] * 8, "pages that are there"
    finally:
        engine.close()


def check_as_usrbio_client_does(file_client, offsets: list, tensors: list) -> None:
    """The part of hf3fs_usrbio_client.py's check that a hole runs into."""
    if len(offsets) != len(tensors):
        file_client.close()
        raise ValueError(f"{len(offsets)} offsets, {len(tensors)} buffers")
