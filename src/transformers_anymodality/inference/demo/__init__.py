"""A browser page to chat with a model, with media of all its modalities."""

from .export import export_space
from .page import build_page
from .running import launch
from .session import Policy


__all__ = ["Policy", "build_page", "export_space", "launch"]
