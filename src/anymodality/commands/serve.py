"""`anymodality serve`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from anymodality.commands import _options as options
from anymodality.commands._base import load_model, load_processor, name_of
from anymodality.commands._options import flag, option


def serve(
    source: options.Source,
    host: Annotated[str, option("ADDRESS", "Address to listen on; use only trusted networks.")] = "127.0.0.1",
    port: Annotated[int, option("N", "Port; 0 = a free one.", min=0, max=65535)] = 8000,
    name: Annotated[str | None, option("NAME", "Model name in requests; default: folder name or Hub id.")] = None,
    allow_urls: Annotated[bool, flag("--allow-urls", "Allow media from http(s) URLs at public addresses.")] = False,
    media_root: Annotated[
        Path | None, option("FOLDER", "Folder whose files requests may name; default: none.")
    ] = None,
    max_megabytes: Annotated[
        int, option("N", "Maximum size of a file in MB, also decoded; a request may hold 1.5x.", min=1)
    ] = 64,
    max_pixels: options.MaxPixels = 25_000_000,
    max_seconds: options.MaxSeconds = 120.0,
    max_frames: Annotated[int, option("N", "Maximum frames of a video.", min=1)] = 4000,
    max_media: Annotated[int, option("N", "Maximum number of media in a request.", min=0)] = 16,
    max_new_tokens: Annotated[int, option("N", "Maximum number of tokens in an answer.", min=1)] = 1024,
    max_requests: Annotated[int, option("N", "Maximum number of requests at once; more get status 503.", min=1)] = 64,
    api_key: Annotated[
        str | None,
        option("KEY", "Key that requests must bring; default: none.", "--api-key", envvar="ANYMODALITY_API_KEY"),
    ] = None,
    allow_origin: Annotated[
        list[str] | None, option("URL", "Web pages whose scripts may reach the server; *: all; default: none.")
    ] = None,
    dtype: options.DType = "auto",
    device: options.Device = None,
    module: options.Import = None,
) -> None:
    """Serve a model to OpenAI's clients, with every modality.

    \b
      anymodality serve my-model
      anymodality serve my-model --port 9000 --name anymal --max-seconds 30
      curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d '{"messages": [{"role": "user",
        "content": [{"type": "input_imu", "input_imu": {"values": [[0, 0, 9.8, 0, 0, 0]], "sampling_rate": 100}},
                    {"type": "text", "text": "What is going on?"}]}]}'

    Media come as data: URLs or base64: image_url and input_audio as in OpenAI's API, and in the same way video_url, imu_url,
    input_depth, ... Sensors may also send numbers. By default it listens only on this machine, fetches no URLs and reads no
    files. It is Transformers' server; requests that wait are answered together.
    """
    from transformers_anymodality.inference import LOOPBACK
    from transformers_anymodality.utils.imports import require

    for package in ("fastapi", "uvicorn", "openai"):
        require(package, "serve")
    from transformers_anymodality.inference.server import Policy, build_app, run_app
    from transformers_anymodality.modalities import UPLOAD_LIMITS

    if media_root is not None and not media_root.is_dir():
        raise NotADirectoryError(f"{media_root} is not a folder.")
    most = {"max_pixels": max_pixels, "max_seconds": max_seconds, "max_frames": max_frames}
    limits = replace(UPLOAD_LIMITS, max_bytes=max_megabytes * 1024**2, **most)
    processor = load_processor(source)
    name = name or name_of(source)
    access = {"allow_urls": allow_urls, "media_root": media_root, "max_requests": max_requests}
    policy = Policy(limits, max_media, max_new_tokens=max_new_tokens, **access)
    hosts = None if host in LOOPBACK else ["*"]
    app = build_app(load_model(source, dtype, device), processor, name, policy, hosts, api_key, allow_origin or ())
    modalities = ", ".join(processor.modalities) or "text alone"
    run_app(app, host, port, lambda address: print(f"{name} ({modalities}) at {address}", flush=True))
