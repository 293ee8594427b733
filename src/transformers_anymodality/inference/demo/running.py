"""Runs a page on this machine: it reads only uploaded files, and loads nothing from other servers."""

import atexit
import mimetypes
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse

from ...utils.upstream_demo import get_upload_folder, save_bytes_to_cache
from .. import LOOPBACK, LOOPBACK_HOSTS


_MAX_SESSIONS = 32  # chats that are kept, each with its cache; the least recently used one is dropped first

_THEME = gr.themes.Soft(
    primary_hue="indigo",
    neutral_hue="slate",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_50",
    block_border_width="1px",
    block_title_background_fill="transparent",
    block_title_text_color="*body_text_color",
    block_title_padding="0",
    button_secondary_border_color="*border_color_primary",
    button_border_width="1px",
    input_border_width="1px",
    input_border_color="*border_color_primary",
)


def launch(
    page: gr.Blocks, host: str | None = None, port: int | None = None, max_megabytes: int = 64, wait: bool = True
) -> str:
    """Runs a page; nothing is loaded from or sent to other servers.

    Args:
        page: from `build_page`.
        host: address to listen on; GRADIO_SERVER_NAME (which Spaces set) or this machine only, if left out.
        port: the first free one from 7860 if left out.
        max_megabytes: size limit of an uploaded file.
        wait: whether to wait until the process is interrupted.

    Returns:
        The page's address.
    """
    host = host or os.environ.get("GRADIO_SERVER_NAME") or LOOPBACK[0]
    guards = [Middleware(_Guard)]
    if host in LOOPBACK:
        guards.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK_HOSTS)))
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        max_file_size=max_megabytes * 1024**2,
        state_session_capacity=_MAX_SESSIONS,
        app_kwargs={"middleware": guards},
        theme=_THEME,
        css_paths=Path(__file__).with_name("page.css"),
        share=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"{page.title} at {address}", flush=True)
    if wait:
        page.block_thread()
    return address


def private_folder() -> None:
    """Gives gradio a folder that other users cannot read; it is deleted when the process ends."""
    if not os.environ.get("GRADIO_TEMP_DIR"):
        folder = os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="anymodality-demo-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def keep(content: bytes, kind: str) -> str:
    """Stores an image or recording among gradio's files, under a hash of its content."""
    path = save_bytes_to_cache(content, f"media{mimetypes.guess_extension(kind) or '.bin'}", get_upload_folder())
    return f"gradio_api/file={path}"


def files_alone(move: Callable) -> Callable:
    """Accepts only files: gradio would also accept a URL and fetch it."""

    async def checked(source: str) -> Any:
        if "://" in source:
            raise gr.Error("URLs are not fetched.")
        return await move(source)

    return checked


class _Guard:
    """Browsers load nothing from other servers, whatever an answer says, and neither does the server for a visitor."""

    policy = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", self.policy)]
            await send(message)

        if scope["type"] == "http" and "=http" in scope["path"].lower():
            await PlainTextResponse("URLs are not fetched.", 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send_with_policy)
