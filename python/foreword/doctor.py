"""``python -m foreword.doctor``: what an agent, a mount and an SGLang configuration lack, and what to do about it.

A line each: ``ok`` or ``LACKS``, what it is about, and what was found or what to do. Exit code 0 only if nothing lacks.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreword.client import Client
from foreword.sglang.config import Config, ConfigError, check_keys, parse

SGLANG_VERSION = "0.5.23"
_CONNECT_S = 5.0
_OPEN_S = 10.0
_PAGE_BYTES = 4096
_USRBIO_TYPE = "fuse.hf3fs"


@dataclass(frozen=True)
class Finding:
    """One line: about what, and what was found, or what lacks and what to do."""

    is_well: bool
    about: str
    says: str

    def __str__(self) -> str:
        return f"{'ok   ' if self.is_well else 'LACKS'} {self.about}: {self.says}"


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    if not (asked.config or asked.agent or asked.mount):
        _parser().error("expected at least one of --config, --agent, --mount")
    findings = []
    for finding in _findings(asked):
        print(finding, flush=True)
        findings.append(finding)
    lacking = sum(not finding.is_well for finding in findings)
    print(f"doctor: {len(findings) - lacking} well, {lacking} lacking")
    return 1 if lacking else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m foreword.doctor", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--config", metavar="FILE", help="SGLang's extra config: a .json, .toml or .yaml file, or inline JSON"
    )
    parser.add_argument("--agent", metavar="ADDRESS", help="unix:/path or HOST:PORT; the configuration's, if not given")
    parser.add_argument("--mount", metavar="DIR", help="the directory of page bytes, as --l3 of the agent has it")
    return parser


def _findings(asked: argparse.Namespace) -> Iterator[Finding]:
    config = None
    if asked.config:
        read = list(_config(asked.config))
        config = next((one for one in read if isinstance(one, Config)), None)
        yield from (one for one in read if isinstance(one, Finding))
    address = asked.agent or (config.agent if config else None)
    if address:
        yield from check_agent(address, config.tenant if config else "default")
    if asked.mount:
        yield from check_mount(Path(asked.mount))


# ---- SGLang's configuration ----


def _config(written: str) -> Iterator[Finding | Config]:
    """What is said of a configuration, and the configuration itself if it can be used."""
    try:
        extra = _read_config(written)
    except (OSError, ValueError, ImportError) as error:
        yield Finding(False, "config", f"{error}; write a file that SGLang reads with @FILE, or inline JSON")
        return
    yield from _loading(extra, inline=written.lstrip().startswith("{"))
    try:
        check_keys(extra)
        config = parse(extra)
    except ConfigError as error:
        yield Finding(False, "config", str(error))
        return
    yield Finding(True, "config", f"agent {config.agent}, tenant {config.tenant}, timeout_ms {config.timeout_ms}")
    yield from _sglang()
    yield config


def _read_config(written: str) -> dict[str, Any]:
    """As SGLang reads it. Raises OSError, ValueError, ImportError."""
    if written.lstrip().startswith("{"):
        extra = json.loads(written)
    else:
        path = Path(written.removeprefix("@"))
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            extra = _toml(text)
        elif path.suffix in (".yaml", ".yml"):
            import yaml

            extra = yaml.safe_load(text)
        else:
            extra = json.loads(text)
    if not isinstance(extra, dict):
        raise ValueError(f"expected keys and values, got {type(extra).__name__}")
    return extra


def _toml(text: str) -> dict[str, Any]:
    if sys.version_info < (3, 11):
        raise ImportError("this Python reads no TOML; it needs 3.11")
    import tomllib

    return tomllib.loads(text)


def _loading(extra: dict[str, Any], *, inline: bool) -> Iterator[Finding]:
    """What SGLang itself needs to load the backend."""
    expected = {"backend_name": None, "module_path": "foreword.sglang", "class_name": "ForewordStorage"}
    for key, value in expected.items():
        if key not in extra:
            yield Finding(False, "config", f'{key}: SGLang needs it; write "{key}": "{value or "foreword"}"')
        elif value is not None and extra[key] != value:
            yield Finding(False, "config", f'{key}: expected {value}, got {extra[key]!r}; write "{key}": "{value}"')
    if extra.get("allocator") == "shm" and not inline:
        says = "SGLang heeds it in inline JSON only, given when the server starts; it does no harm, and is not needed"
        yield Finding(True, "config", f"allocator: {says}")


def _sglang() -> Iterator[Finding]:
    if importlib.util.find_spec("sglang") is None:
        yield Finding(True, "sglang", "not installed for this Python: what it loads was not looked at")
        return
    from importlib import metadata

    try:
        version = metadata.version("sglang")
    except metadata.PackageNotFoundError:
        version = "of an unknown version"
    if version == SGLANG_VERSION:
        yield Finding(True, "sglang", version)
    else:
        yield Finding(True, "sglang", f"{version}: the backend was tested with {SGLANG_VERSION}")


# ---- an agent ----


def check_agent(address: str, tenant: str = "default") -> Iterator[Finding]:
    """Connects, opens a namespace of the doctor's own, and puts a page of 4 KiB there and back."""
    if address.startswith("unix:"):
        finding = _socket(address.removeprefix("unix:"))
        if finding is not None:
            yield finding
            return
    try:
        client = Client(address, tenant=tenant)
    except ValueError as error:
        yield Finding(False, "agent", f"{error}; write unix:/run/foreword/node.sock or HOST:PORT")
        return
    with client:
        yield from _round_trip(client, address)


def _socket(path: str) -> Finding | None:
    """What is wrong with a unix socket before anyone answers on it."""
    if not path.startswith("/"):
        todo = "write an absolute path, unix:/run/foreword/node.sock"
        return Finding(False, "agent", f"unix:{path} names no place; {todo}")
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        todo = f"start it: foreword node --socket {path}, or mount its folder into this container"
        return Finding(False, "agent", f"{error.strerror}: {path}; {todo}")
    if not stat.S_ISSOCK(mode):
        return Finding(False, "agent", f"{path} is no socket; name the one that foreword node --socket has")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_S)
        try:
            probe.connect(path)
        except PermissionError:
            return Finding(False, "agent", f"{path}: permission denied; run as the agent's user, or in its group")
        except OSError as error:
            return Finding(False, "agent", f"{path}: {error.strerror or error}; the agent has ended: start it again")
    return None


def _round_trip(client: Client, address: str) -> Iterator[Finding]:
    key = os.urandom(32)
    pages = client.namespace("foreword-doctor", page_tokens=1, shard_bytes=_PAGE_BYTES, open_s=_OPEN_S)
    state = client.state()
    if not state["connected"]:
        why = state["error"] or f"no answer within {_OPEN_S:.0f} s"
        yield Finding(False, "agent", f"{address}: {why}; see its log, and /healthz at its --http address")
        return
    yield Finding(True, "agent", f"{address} answers ({state['transport']})")
    if not pages.is_open:
        why = pages.error or f"nothing within {_OPEN_S:.0f} s"
        yield Finding(False, "group", f"no namespace can be opened: {why}; see foreword status --meta HOST:PORT")
        return
    content = os.urandom(_PAGE_BYTES)
    outcome = pages.put([key], content, wait=True)[0]
    if outcome.name == "DECLINED":
        yield Finding(
            True, "pages", "the agent's policy declined a page that nobody will ask for: L3 is under pressure"
        )
        return
    if outcome.name not in ("PUBLISHED", "EXISTS"):
        why = pages.error or outcome.name.lower()
        yield Finding(
            False, "pages", f"a page was not published: {why}; see the agent's log, and room in foreword status"
        )
        return
    there = bytearray(_PAGE_BYTES)
    if pages.get([key], there) == [True] and bytes(there) == content:
        yield Finding(True, "pages", "a page was published and read back")
    else:
        why = pages.error or "a miss"
        yield Finding(False, "pages", f"a page was published and could not be read: {why}; see the agent's log")


# ---- a mount ----


def check_mount(root: Path) -> Iterator[Finding]:
    """The directory of page bytes: there, a cluster's, writable, with room; and on a 3FS what USRBIO needs."""
    if not root.is_dir():
        yield Finding(False, "mount", f"no directory {root}; mount it, then foreword meta init --l3 …:{root}")
        return
    kind, point = _mounted(root)
    yield Finding(True, "mount", f"{root} is on {kind}, mounted at {point}")
    yield _marks(root)
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(False, "mount", f"{root} cannot be written by this user; run as the user of foreword meta init")
    free = shutil.disk_usage(root).free
    if free == 0:
        yield Finding(False, "mount", f"{root} has no room left; make some, or give the cluster less: --l3-bytes")
    if kind == _USRBIO_TYPE:
        yield from _usrbio(Path(point))


def _mounted(root: Path) -> tuple[str, str]:
    """Filesystem type and mount point of a directory, by the longest mount point above it."""
    at, best = os.path.realpath(root), ("an unknown filesystem", "")
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return best
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        inside = at == point or at.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[1]):
            best = (after.split()[0], point)
    return best


def _marks(root: Path) -> Finding:
    marks = sorted(path.parent.name for path in root.glob("*/CLUSTER"))
    if not marks:
        says = (
            f"no cluster's mark (<id>/CLUSTER) in {root}; run foreword meta init with it, or mount what init was given"
        )
        return Finding(False, "mount", says)
    if len(marks) > 1:
        return Finding(True, "mount", f"marked for {len(marks)} clusters")
    return Finding(True, "mount", f"marked for cluster {marks[0]}")


def _usrbio(point: Path) -> Iterator[Finding]:
    """What moves page bytes between the 3FS and shared memory; an agent with --l3 posix: does without."""
    iovs = point / "3fs-virt" / "iovs"
    if not iovs.is_dir():
        says = f"no {iovs}; mount the whole 3FS, with 3fs-virt, or use --l3 posix:"
        yield Finding(False, "usrbio", says)
        return
    room = shutil.disk_usage("/dev/shm").free
    yield Finding(True, "usrbio", f"{iovs}; /dev/shm has {room / (1 << 30):.1f} GiB free for --arena-bytes")


if __name__ == "__main__":
    sys.exit(main())
