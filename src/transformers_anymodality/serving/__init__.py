"""An OpenAI-style endpoint for one checkpoint: Transformers' own server, with every sense, closed by default."""

from .requests import Policy
from .server import build_app, run_app


__all__ = ["Policy", "build_app", "run_app"]
