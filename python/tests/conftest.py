"""What the tests share: one replica and one agent for those that leave them as they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import Agent, Cluster

from foreword import _native


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.end()


@pytest.fixture(scope="session")
def agent(cluster: Cluster) -> Agent:
    """An agent that nobody disturbs."""
    return cluster.agent("calm")


@pytest.fixture(params=["unix", "tcp"])
def way(request: pytest.FixtureRequest) -> str:
    """How an agent is reached."""
    return str(request.param)


@pytest.fixture
def connection(agent: Agent, way: str) -> Iterator[_native.Connection]:
    connection = _native.Connection(agent.address(way), timeout_ms=30_000)
    yield connection
    connection.close()


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A model of this test's own."""
    return str(request.node.nodeid)[-200:]


@pytest.fixture
def mortal(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Agent]:
    """An agent of this test's own, to stop, kill and put to sleep."""
    agent = cluster.agent(f"mortal-{len(cluster.agents)}")
    yield agent
    agent.end()
