"""Tiny models, shared by the files of this folder."""

from __future__ import annotations

from tests.small import fresh, shared, shared_velocity

__all__ = ["fresh", "shared", "shared_velocity"]
