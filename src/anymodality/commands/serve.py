"""`anymodality serve`."""

import signal
import sys
from pathlib import Path
from typing import Annotated

from anymodality.commands import _options as options
from anymodality.commands._base import load_model, load_processor, name_of, tell, within
from anymodality.commands._options import flag, option


def serve(
    source: options.Source,
    host: Annotated[str, option("ADDRESS", "Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, option("N", "Port; 0 = a free one.", min=0, max=65535)] = 8000,
    name: Annotated[str | None, option("NAME", "Model name in requests; default: folder name or Hub id.")] = None,
    allow_urls: Annotated[bool, flag("--allow-urls", "Allow media from http(s) URLs at public addresses.")] = False,
    media_root: Annotated[
        Path | None, option("FOLDER", "Folder whose files requests may name; default: none.")
    ] = None,
    maxima: options.Max = None,
    api_key: Annotated[
        str | None,
        option("KEY", "Key that requests must have; default: none.", "--api-key", envvar="ANYMODALITY_API_KEY"),
    ] = None,
    allow_origin: Annotated[
        list[str] | None, option("URL", "Origin of web pages that may call the server; *: all; default: none.")
    ] = None,
    dtype: options.DType = "auto",
    device: options.Device = None,
    module: options.Import = None,
) -> None:
    """Serve a model to OpenAI's clients, with every modality.

    Media are data: URLs or base64: image_url and input_audio as in OpenAI's API;
    likewise video_url, imu_url, input_depth, ... Sensor values may be numbers.

    Limits are megabytes=64, pixels=25e6 and seconds=120 of a file, frames=4000 of a
    video, media=16 in a request, new_tokens=1024 of an answer, requests=64 at once.

    Example:
      anymodality serve my-model --port 9000 --max seconds=30 --max media=4
    """
    from transformers_anymodality.inference import LOOPBACK
    from transformers_anymodality.utils.imports import require

    for package in ("fastapi", "uvicorn", "openai", "prometheus_client"):
        require(package, "serve")
    from transformers_anymodality.inference.server import Policy, build_app, run_app

    if media_root is not None and not media_root.is_dir():
        raise NotADirectoryError(f"{media_root} is not a folder.")
    policy = within(Policy(allow_urls=allow_urls, media_root=media_root), maxima)
    processor = load_processor(source)
    name = name or name_of(source)
    hosts = None if host in LOOPBACK else ["*"]
    app = build_app(load_model(source, dtype, device), processor, name, policy, hosts, api_key, allow_origin or ())
    modalities = ", ".join(processor.modalities) or "text only"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: the last line is printed, too
    run_app(app, host, port, lambda address: print(f"{name} ({modalities}) at {address}", flush=True))
    tell(f"{name}: stopped.", file=sys.stderr)
