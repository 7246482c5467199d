#!/usr/bin/env python3
"""SGLang's own cache over Foreword: what one engine has written through its agent, another reads through another one.

    python3 tests/sglang/run.py --foreword target/debug/foreword [--venv VENV] [--pages 24] [--only mla]

Of each kind and layout, with and without shared host memory: a producer on agent A; A is stopped; a consumer on agent
B; both agents are started anew, with nothing in memory; a consumer on A. Each engine is a process of its own, forked
from one that has imported SGLang (20 s).

VENV, or FOREWORD_SGLANG_VENV: made by ../shared/sglang/install_venv.sh. ../shared is looked for beside the
repository, or where FOREWORD_SHARED says. The package `foreword` must be importable, or lie where --package says (a
folder with `foreword/` in it). Exit code: 0 passed, 1 failed, 77 cannot run here (the reason is printed).
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CANNOT_RUN = 77
KINDS = ("mha", "mla")
LAYOUTS = ("layer_first", "page_first", "page_first_direct")


def main() -> int:
    arguments = parse()
    reason = why_not(arguments)
    if reason:
        print(f"SKIPPED: SGLang's cache over Foreword: {reason}")
        return CANNOT_RUN
    if "FOREWORD_SGLANG_INSIDE" not in os.environ:
        run_inside(arguments)
    began = time.monotonic()
    load(arguments)
    print(f"SGLang is loaded ({time.monotonic() - began:.0f} s)", flush=True)
    scenarios: dict[str, Callable[[Any], None]] = {
        "attached at run time": lambda at: attached_at_run_time(at, arguments.pages)
    }
    scenarios["failures injected"] = partial(failures_injected, pages=8)
    for kind in KINDS:
        scenarios[f"{kind}, two ranks"] = partial(two_ranks, kind=kind, pages=arguments.pages)
    for kind, layout, shm in itertools.product(KINDS, LAYOUTS, (False, True)):
        name = f"{kind}/{layout}{'/shm' if shm else ''}"
        scenarios[name] = partial(crosses_agents, kind=kind, layout=layout, shm=shm, pages=arguments.pages)
    scenarios = {name: scenario for name, scenario in scenarios.items() if arguments.only in name}
    failed = [name for name, scenario in scenarios.items() if not passes(name, scenario)]
    passed = len(scenarios) - len(failed)
    print(f"SGLang's cache over Foreword: {passed} passed, {len(failed)} failed {' '.join(failed)}".rstrip())
    return 1 if failed or not scenarios else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--foreword", default=os.environ.get("FOREWORD_BINARY"), help="path of the foreword binary")
    parser.add_argument("--venv", default=os.environ.get("FOREWORD_SGLANG_VENV"), help="an environment with SGLang")
    parser.add_argument("--package", default=None, help="a folder with the package `foreword`, built")
    parser.add_argument("--pages", type=int, default=24, help="pages of a prompt")
    parser.add_argument("--only", default="", help="scenarios whose name has this in it")
    return parser.parse_args()


def why_not(arguments: argparse.Namespace) -> str:
    if not arguments.foreword or not os.access(arguments.foreword, os.X_OK):
        return f"no foreword binary: {arguments.foreword} (--foreword)"
    if not arguments.venv or not os.access(f"{arguments.venv}/bin/python", os.X_OK):
        return f"no environment with SGLang: {arguments.venv} (--venv, FOREWORD_SGLANG_VENV)"
    return "" if (shared() / "sgl_cpu.py").is_file() else f"no {shared()}/sgl_cpu.py"


def shared() -> Path:
    return Path(os.environ.get("FOREWORD_SHARED") or ROOT.parent / "shared") / "sglang"


def run_inside(arguments: argparse.Namespace) -> None:
    """Goes on in the Python that has SGLang, with the package on its path."""
    package = arguments.package
    if package is None:
        import foreword

        package = str(Path(foreword.__path__[0]).parent)
    os.environ.update(FOREWORD_SGLANG_INSIDE="1", FOREWORD_BINARY=os.path.abspath(arguments.foreword))
    # Not the whole folder: another environment's packages may be in it.
    os.environ["FOREWORD_PACKAGE"] = os.path.abspath(package)
    python = f"{arguments.venv}/bin/python"
    os.execv(python, [python, "-u", os.path.abspath(__file__), *sys.argv[1:]])


def load(arguments: argparse.Namespace) -> None:
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(shared()), str(ROOT / "python" / "tests"), str(ROOT / "examples" / "sglang")]
    import sgl_cpu  # noqa: F401

    # The last on the path, so that nothing in it stands before what SGLang was installed with.
    sys.path.append(os.environ["FOREWORD_PACKAGE"])
    import engine

    import foreword.sglang.storage  # noqa: F401

    engine.stand_in_for_the_gpu()


def passes(name: str, scenario: Callable[[Any], None]) -> bool:
    """Runs one scenario on a cluster of its own."""
    from support import Cluster

    began, cluster = time.monotonic(), Cluster()
    try:
        scenario(cluster)
    except Exception:
        traceback.print_exc()
        print(f"FAILED {name}", flush=True)
        return False
    finally:
        cluster.end()
    print(f"passed {name} ({time.monotonic() - began:.1f} s)", flush=True)
    return True


def crosses_agents(cluster: Any, *, kind: str, layout: str, shm: bool, pages: int) -> None:
    """Written through A, which is stopped; read through B; then through both with nothing in memory."""
    import engine as engines

    prompt = engines.prompt_of(pages, 1)
    a, b = cluster.agent("a"), cluster.agent("b")

    def engine(agent: Any, use: Callable[[Any], None]) -> None:
        def run() -> None:
            made = engines.Engine(kind, layout, pages, engines.extra_config(agent.address("unix"), shm=shm))
            use(made)
            made.close()

        in_a_process_of_its_own(run)

    engine(a, lambda producer: producer.produce(prompt, seed=1))
    a.end()
    engine(b, lambda consumer: consumer.consume(prompt, 1, pages))
    b.end()
    a.start()
    b.start()
    engine(a, lambda consumer: consumer.consume(prompt, 1, pages))
    engine(b, lambda consumer: consumer.consume(engines.prompt_of(pages, 2), 2, 0))


def attached_at_run_time(cluster: Any, pages: int) -> None:
    """Attached to a running engine: refused and rolled back; while the agent is away; detached, and attached again."""
    import engine as engines

    agent = cluster.agent("a", state_dir=str(cluster.folder / "a"))
    extra, prompt = engines.extra_config(agent.address("unix")), engines.prompt_of(pages, 1)

    def without_agent() -> None:
        engine = engines.Engine("mha", "page_first", pages, None)
        attached, says = engine.attach({**extra, "agnet": "x"})
        assert not attached, "a misspelt key was taken"
        assert 'agnet: no such key; write "agent" instead' in says, says
        attached, says = engine.attach(extra)
        assert attached, says
        engine.consume(prompt, 1, 0)
        engine.close()

    def with_agent() -> None:
        producer = engines.Engine("mha", "page_first", pages, None)
        for _ in range(2):
            attached, says = producer.attach(extra)
            assert attached, says
            producer.close()
        attached, says = producer.attach(extra)
        assert attached, says
        producer.produce(prompt, seed=1)
        producer.close()
        consumer = engines.Engine("mha", "page_first", pages, extra)
        consumer.consume(prompt, 1, pages)
        consumer.close()

    agent.end()
    in_a_process_of_its_own(without_agent)
    agent.start()
    in_a_process_of_its_own(with_agent)


def failures_injected(cluster: Any, *, pages: int) -> None:
    """SGLang's injector lets every third call fail or come late: fewer pages come, and no byte is wrong."""
    import engine as engines

    agent = cluster.agent("a")
    extra, prompts = engines.extra_config(agent.address("unix")), [engines.prompt_of(pages, seed) for seed in range(50)]

    def run(use: Callable[[Any, list[int], int], Any]) -> list[Any]:
        from sglang.srt.environ import envs

        failure, delay = envs.SGLANG_TEST_HICACHE_BACKEND_RANDOM_FAILURE, envs.SGLANG_TEST_HICACHE_BACKEND_RANDOM_DELAY
        with failure.override(0.3), delay.override(0.02):
            engine = engines.Engine("mha", "page_first", pages * len(prompts), extra)
            assert type(engine.backend).__name__ == "HiCacheStorageFailureInjector", "nothing is injected"
            made = [use(engine, prompt, seed) for seed, prompt in enumerate(prompts)]
            engine.close()
        return made

    def consumer() -> None:
        came = run(lambda engine, prompt, seed: engine.read(prompt, seed))
        assert 0 < sum(came) < pages * len(prompts), f"{sum(came)} pages came of {pages * len(prompts)}"

    in_a_process_of_its_own(lambda: run(lambda engine, prompt, seed: engine.write(prompt, seed)) and None)
    in_a_process_of_its_own(consumer)


def two_ranks(cluster: Any, *, kind: str, pages: int) -> None:
    """Ranks in step by collectives, as SGLang's are: each writes its part of a page, or one of them all of it."""
    import engine as engines

    agent, prompt = cluster.agent("a"), engines.prompt_of(pages, 1)
    extra = engines.extra_config(agent.address("unix"))

    def engine(name: str, use: Callable[[Any], None]) -> None:
        rendezvous = str(cluster.folder / f"{name}-ranks")

        def rank(number: int) -> None:
            made = engines.Engine(kind, "page_first", pages, extra, engines.Rank(number, 2, rendezvous))
            use(made)
            made.close()

        in_processes_of_their_own([partial(rank, number) for number in range(2)])

    engine("producer", lambda producer: producer.produce(prompt, seed=1))
    engine("consumer", lambda consumer: consumer.consume(prompt, 1, pages))


def in_a_process_of_its_own(use: Callable[[], None]) -> None:
    in_processes_of_their_own([use])


def in_processes_of_their_own(uses: list[Callable[[], None]]) -> None:
    """Forks: this process has no threads and no connection yet. Raises if one of the others fails."""
    sys.stdout.flush()
    children = [_forked(use) for use in uses]
    ended = [os.waitpid(child, 0)[1] for child in children]
    if any(ended):
        raise RuntimeError(f"engines' processes ended with {ended}")


def _forked(use: Callable[[], None]) -> int:
    child = os.fork()
    if not child:
        try:
            use()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


if __name__ == "__main__":
    sys.exit(main())
