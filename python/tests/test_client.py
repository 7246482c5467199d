"""The clients for any engine."""

from __future__ import annotations

import array
import asyncio
import doctest
import subprocess
from pathlib import Path

import foreword
import pytest
from foreword import AsyncClient, Client, Outcome
from support import PAGE_BYTES, PATIENCE_S, Agent, binary, names, pages, spec


def test_the_example_in_the_docstring_does_what_it_says(agent: Agent) -> None:
    text = (Client.__doc__ or "").replace("/run/foreword/node.sock", str(agent.socket))
    example = doctest.DocTestParser().get_doctest(text, {"Client": Client}, "Client", None, None)
    assert sum(len(step.source.splitlines()) for step in example.examples) <= 10
    said: list[str] = []
    runner = doctest.DocTestRunner()
    runner.run(example, out=said.append)
    assert not said and runner.tries > 0, "".join(said)


def test_the_example_in_the_readme_does_what_it_says(agent: Agent) -> None:
    text = Path(__file__).parents[1].joinpath("README.md").read_text()
    text = text.replace("/run/foreword/node.sock", str(agent.socket)).replace("my-model", "the readme's model")
    example = doctest.DocTestParser().get_doctest(text, {}, "README.md", None, None)
    said: list[str] = []
    runner = doctest.DocTestRunner()
    runner.run(example, out=said.append)
    assert not said and runner.tries > 5, "".join(said)


def test_the_asyncio_example_does_what_it_says(agent: Agent) -> None:
    text = (AsyncClient.__doc__ or "").replace("/run/foreword/node.sock", str(agent.socket))
    names: dict = {"AsyncClient": AsyncClient}
    example = doctest.DocTestParser().get_doctest(text, names, "AsyncClient", None, None)
    runner = doctest.DocTestRunner()
    runner.run(example, clear_globs=False)
    assert runner.failures == 0
    assert asyncio.run(example.globs["found"]([7] * 128)) == 0


@pytest.fixture
def client(agent: Agent, way: str):
    with Client(agent.address(way), timeout_ms=30_000) as client:
        yield client


def test_any_buffer_goes_out_and_comes_back(client: Client, model: str) -> None:
    namespace = client.namespace(model, page_tokens=2, shard_bytes=PAGE_BYTES)
    assert namespace.is_open and namespace.error is None, namespace.error
    keys = namespace.keys(range(8))
    content = bytes(pages(model, 4))
    assert namespace.put(keys, content, wait=True) == [Outcome.PUBLISHED] * 4
    assert namespace.lookup(keys) == namespace.lookup_tokens(range(9)) == 4
    for buffer in (bytearray(len(content)), memoryview(bytearray(len(content))), array.array("d", bytes(len(content)))):
        assert namespace.get(keys, buffer) == [True] * 4
        assert memoryview(buffer).tobytes() == content
    assert namespace.put(b"".join(keys), memoryview(content)) == [Outcome.EXISTS] * 4


def test_every_shard_of_a_rank_group_has_its_own_buffer(client: Client, model: str) -> None:
    namespace = client.namespace(model, page_tokens=1, shard_bytes=[64, 128])
    shards = [bytes(pages((model, shard), 3, size)) for shard, size in enumerate(namespace.shard_bytes)]
    keys = names("page", 3)
    assert namespace.put(keys, shards[0]) == [Outcome.TAKEN] * 3
    assert namespace.put(keys, shards[1], shard=1, wait=True) == [Outcome.PUBLISHED] * 3
    for shard, content in enumerate(shards):
        got = bytearray(len(content))
        assert all(namespace.get(keys, got, shard=shard)) and got == content


def test_the_defaults_are_those_of_the_command_line(client: Client, agent: Agent, model: str, tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(pages(model, 1))
    command = [binary(), "put", "--agent", agent.address("tcp"), "--model", model, "--opaque", "page"]
    subprocess.run([*command, str(tmp_path / "page")], check=True, stdout=subprocess.DEVNULL)
    namespace = client.namespace(model, page_tokens=1, shard_bytes=PAGE_BYTES)
    got = bytearray(PAGE_BYTES)
    assert namespace.get(["page"], got) == [True] and got == pages(model, 1)


def test_any_field_of_a_namespace_may_be_named(client: Client, model: str) -> None:
    plain = client.namespace(model, page_tokens=1, shard_bytes=PAGE_BYTES)
    same = client.namespace(model, page_tokens=1, shard_bytes=[PAGE_BYTES], revision="static", salt=b"")
    other = client.namespace(model, page_tokens=1, shard_bytes=PAGE_BYTES, revision="2")
    assert plain.fingerprint == same.fingerprint != other.fingerprint
    assert set(spec(model)) >= {"revision", "salt"}
    with pytest.raises(ValueError, match="namespace.colour: expected a field"):
        client.namespace(model, page_tokens=1, shard_bytes=PAGE_BYTES, colour="red")


def test_buffers_that_do_not_fit_are_named(client: Client, model: str) -> None:
    namespace = client.namespace(model, page_tokens=1, shard_bytes=PAGE_BYTES)
    with pytest.raises(ValueError, match="buffer: expected 8192 bytes for 2 pages, got 4096"):
        namespace.put(["a", "b"], bytes(PAGE_BYTES))
    with pytest.raises(ValueError, match="buffer: expected 4096 bytes for 1 pages, got 8192"):
        namespace.get(["a"], bytearray(2 * PAGE_BYTES))
    with pytest.raises(TypeError, match="buffer: expected writable memory"):
        namespace.get(["a"], bytes(PAGE_BYTES))
    with pytest.raises(ValueError, match="shard: expected one below 1, got 1"):
        namespace.get(["a"], bytearray(PAGE_BYTES), shard=1)


def test_an_agent_that_is_away_is_a_miss_with_a_reason() -> None:
    with Client("unix:/nonexistent/socket") as client:
        namespace = client.namespace("model", page_tokens=1, shard_bytes=PAGE_BYTES, open_s=0)
        assert namespace.put(["page"], bytes(PAGE_BYTES)) == [Outcome.FAILED]
        assert not namespace.wait_open(0.5)
        assert "No such file" in (namespace.error or "")
        assert not client.state()["connected"]


def test_asyncio_has_the_same_methods(agent: Agent, way: str, model: str) -> None:
    content = bytes(pages(model, 3))

    async def talk() -> None:
        async with AsyncClient(agent.address(way), timeout_ms=30_000) as client:
            assert client.state()["error"] is None
            namespace = await client.namespace(model, page_tokens=1, shard_bytes=PAGE_BYTES)
            assert namespace.is_open and await namespace.wait_open(1) and namespace.error is None
            keys = namespace.keys([1, 2, 3])
            assert await namespace.put(keys, content, wait=True) == [Outcome.PUBLISHED] * 3
            assert await namespace.lookup(keys) == await namespace.lookup_tokens([1, 2, 3]) == 3
            got = [bytearray(len(content)) for _ in range(8)]
            hits = await asyncio.gather(*(namespace.get(keys, buffer) for buffer in got))
            assert hits == [[True] * 3] * 8 and all(buffer == content for buffer in got)
            assert namespace.counters()["gets"] == 8
            with pytest.raises(RuntimeError, match="clear_tenants"):
                await namespace.clear()
            await namespace.close()
            assert not namespace.is_open

    asyncio.run(talk())


def test_the_two_clients_have_the_same_methods() -> None:
    for plain, awaited in ((Client, AsyncClient), (foreword.Namespace, foreword.AsyncNamespace)):
        public = {name for name in dir(plain) if not name.startswith("_")}
        assert public <= {name for name in dir(awaited) if not name.startswith("_")}


def test_a_cancelled_call_has_left_its_buffer(mortal: Agent, way: str, model: str) -> None:
    """The agent sleeps; the call that is cancelled comes back when it has run out of time, and not before."""

    async def talk() -> None:
        async with AsyncClient(mortal.address(way)) as client:
            namespace = await client.namespace(model, page_tokens=1, shard_bytes=PAGE_BYTES, open_s=PATIENCE_S)
            mortal.sleep()
            try:
                call = asyncio.ensure_future(namespace.get(["page"], bytearray(PAGE_BYTES), timeout_ms=500))
                await asyncio.sleep(0)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                assert namespace.counters()["get_seconds"] > 0, "it has ended"
            finally:
                mortal.wake()

    asyncio.run(talk())
