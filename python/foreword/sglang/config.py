"""The extra config that SGLang hands to a dynamic backend: parsed and checked once, at attach.

Everything refused here is the same for every rank, because all ranks are given the same configuration: SGLang does
not roll an attach back on the others when one rank refuses.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# SGLang's own: some it removes before a backend sees them, and the manager of decode offloading does not.
SGLANG_KEYS = (
    "allocator",
    "backend_name",
    "class_name",
    "file_storage_path",
    "hicache_storage_pass_prefix_keys",
    "interface_v1",
    "module_path",
    "prefetch_threshold",
    "prefetch_timeout_base",
    "prefetch_timeout_per_ki_token",
    "tp_lcm_size",
)
OUR_KEYS = (
    "agent",
    "allow_clear",
    "ca",
    "cert",
    "draft",
    "dtype",
    "key",
    "rank_group",
    "revision",
    "salt",
    "tenant",
    "timeout_ms",
    "token_file",
)
TIMEOUT_MS_DEFAULT = 5_000
# SGLang joins its storage threads for 10 s when it detaches or flushes, and gives up if one is still in a call.
TIMEOUT_MS_MAX = 9_000
AGENT_EXPECTED = '"unix:/run/foreword/node.sock" or "HOST:PORT"'


class ConfigError(ValueError):
    """A setting that cannot be used; the message begins with its name and says what to write instead."""

    def __init__(self, field: str, expected: str) -> None:
        super().__init__(f"{field}: {expected}")
        self.field = field


@dataclass(frozen=True)
class Draft:
    """Which draft model wrote the KV of a draft pool, or of the draft layers packed into one."""

    model: str
    revision: str


@dataclass(frozen=True)
class Config:
    """What the operator wrote. Names and meanings: docs/SGLANG.md, "Keys"."""

    agent: str
    tenant: str = "default"
    revision: str | None = None
    salt: bytes = b""
    draft: Draft | None = None
    dtype: str | None = None
    rank_group: int | None = None
    allow_clear: bool = False
    token_file: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    timeout_ms: int = TIMEOUT_MS_DEFAULT

    @property
    def is_local(self) -> bool:
        """True where the agent is on this machine, on a unix socket."""
        return self.agent.startswith("unix:")


def parse(extra_config: Mapping[str, Any] | None) -> Config:
    """Parses SGLang's `extra_config`. Raises ConfigError."""
    extra = dict(extra_config or {})
    check_keys(extra)
    # SGLang itself takes whatever is not empty for a yes, "0" too.
    if str(extra.get("interface_v1")).lower() not in ("1", "true"):
        got = repr(extra["interface_v1"]) if "interface_v1" in extra else "nothing"
        raise ConfigError(
            "interface_v1", f'expected 1, got {got}; write "interface_v1": 1, else SGLang copies every page twice'
        )
    return Config(
        agent=_agent(extra),
        tenant=_text(extra, "tenant") or "default",
        revision=_text(extra, "revision"),
        salt=(_text(extra, "salt") or "").encode(),
        draft=_draft(extra),
        dtype=_text(extra, "dtype"),
        rank_group=_count(extra, "rank_group", 64),
        allow_clear=_flag(extra, "allow_clear"),
        token_file=_text(extra, "token_file"),
        ca=_text(extra, "ca"),
        timeout_ms=_count(extra, "timeout_ms", TIMEOUT_MS_MAX) or TIMEOUT_MS_DEFAULT,
        **_client_certificate(extra),
    )


def check_keys(extra: Mapping[str, Any]) -> None:
    """Raises ConfigError for the first key that neither SGLang nor we know, naming the nearest one."""
    known = (*OUR_KEYS, *SGLANG_KEYS)
    for name in extra:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            instead = f'write "{near[0]}" instead' if near else f"ours are {', '.join(OUR_KEYS)}"
            raise ConfigError(str(name), f"no such key; {instead}")


def _agent(extra: Mapping[str, Any]) -> str:
    agent = extra.get("agent")
    if not isinstance(agent, str) or not agent:
        got = "nothing" if agent is None else repr(agent)
        raise ConfigError(
            "agent", f'expected {AGENT_EXPECTED}, got {got}; write "agent": "unix:/run/foreword/node.sock"'
        )
    if agent.startswith("unix:"):
        if not agent.startswith("unix:/"):
            raise ConfigError("agent", f"expected an absolute path after unix:, got {agent!r}")
        return agent
    host, colon, port = agent.rpartition(":")
    if not colon or not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigError("agent", f"expected {AGENT_EXPECTED}, got {agent!r}")
    return agent


def _draft(extra: Mapping[str, Any]) -> Draft | None:
    text = _text(extra, "draft")
    if text is None:
        return None
    model, at, revision = text.rpartition("@")
    if not at:
        return Draft(text, "static")
    if not model or not revision:
        raise ConfigError("draft", f'expected "MODEL" or "MODEL@REVISION", got {text!r}')
    return Draft(model, revision)


def _client_certificate(extra: Mapping[str, Any]) -> dict[str, str | None]:
    cert, key = _text(extra, "cert"), _text(extra, "key")
    if (cert is None) != (key is None):
        missing = "key" if key is None else "cert"
        raise ConfigError(missing, "expected the path of a file: cert and key come together")
    return {"cert": cert, "key": key}


def _text(extra: Mapping[str, Any], name: str) -> str | None:
    value = extra.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise ConfigError(name, f"expected a text that is not empty, got {value!r}; leave the key out for the default")
    return value


def _count(extra: Mapping[str, Any], name: str, most: int) -> int | None:
    value = extra.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(name, f"expected a whole number from 1 to {most}, got {value!r}")
    return value


def _flag(extra: Mapping[str, Any], name: str) -> bool:
    value = extra.get(name, False)
    if not isinstance(value, bool):
        raise ConfigError(name, f"expected true or false, got {value!r}")
    return value
