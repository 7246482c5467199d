"""Shares the KV-cache pages of LLM engines across a cluster, through the agent of this machine.

- :class:`Client` and :class:`AsyncClient`: any engine, in ten lines.
- :mod:`foreword._native`: what they stand on, with addresses in place of buffers.
"""

from __future__ import annotations

from foreword._native import VERSION
from foreword.aio import AsyncClient, AsyncNamespace
from foreword.client import Client, Namespace, Outcome

__version__ = VERSION

__all__ = ["AsyncClient", "AsyncNamespace", "Client", "Namespace", "Outcome", "__version__"]
