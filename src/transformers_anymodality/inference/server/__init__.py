"""An OpenAI-style endpoint for one checkpoint: Transformers' own server, with every modality, closed by default."""

from .app import build_app, run_app
from .requests import Policy


__all__ = ["Policy", "build_app", "run_app"]
