"""The connection to the agent: begun at attach, and kept by itself from then on."""

from __future__ import annotations

from foreword import _native
from foreword.sglang.config import Config, ConfigError


def connect(config: Config) -> _native.Connection:
    """Begins to connect; waits for nothing.

    A unix socket is this machine's, and the agent knows who is at its other end: what is configured for TLS is not
    used there. Raises ConfigError for it at HOST:PORT, where this release has neither TLS nor tokens.
    """
    if not config.is_local:
        for name in ("token_file", "ca", "cert", "key"):
            if getattr(config, name) is not None:
                instead = f"leave it out, or use a unix socket, not {config.agent}"
                raise ConfigError(name, f"agents of this release have neither TLS nor tokens; {instead}")
    try:
        return _native.Connection(config.agent, tenant=config.tenant, timeout_ms=config.timeout_ms)
    except ValueError as error:
        raise ConfigError("agent", str(error)) from error
