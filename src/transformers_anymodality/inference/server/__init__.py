"""An OpenAI-style endpoint for one checkpoint: Transformers' server with every modality, restrictive by default."""

from .app import build_app, run_app
from .requests import Policy


__all__ = ["Policy", "build_app", "run_app"]
