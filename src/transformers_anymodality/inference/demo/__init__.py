"""A page in the browser to chat with a model, with media of every modality that it has."""

from .export import export_space
from .page import build_page
from .running import launch
from .session import Policy


__all__ = ["Policy", "build_page", "export_space", "launch"]
