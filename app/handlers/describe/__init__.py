"""The handler `describe_image`, and the command `python -m app.handlers.describe` that submits folders."""

from __future__ import annotations

from app.handlers.describe.handler import Description, describe_image

__all__ = ["Description", "describe_image"]
