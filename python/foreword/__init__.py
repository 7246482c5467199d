"""Shares the KV-cache pages of LLM engines across a cluster."""

from __future__ import annotations

from foreword._native import VERSION

__version__ = VERSION

__all__ = ["__version__"]
