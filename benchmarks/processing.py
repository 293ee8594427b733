"""Turning files, arrays and chats into model inputs, against the sub-processors, template and tokenizer alone.

python -m benchmarks.processing [--quick]
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image
from transformers import LlavaProcessor, WhisperConfig, WhisperFeatureExtractor
from transformers.image_utils import load_image

from transformers_anymodality import AnyModalityDataCollator, AnyModalityProcessor

from . import _models as models
from ._ratio import Effort, Result, compare, main


RATE = 16_000
SIDES = models.Sizes(side=224, patch=14)


def measure(effort: Effort) -> Iterator[Result]:
    _, processor = models.composite(SIDES, **_rows())
    with tempfile.TemporaryDirectory() as name:
        yield from media(processor, Path(name), effort)
    yield from collating(processor, effort)
    yield from turns(processor, effort)


def _rows() -> dict[str, Any]:
    whisper = WhisperConfig(
        d_model=64, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=64, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=64, vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
    )  # fmt: skip
    video = {"tower": "image", "aligner": "image", "processor": models.image_processor(SIDES), "num_frames": 8}
    reading = {"select_layer": -2, "select_feature": "patches"}
    audio = {"tower": whisper, "processor": WhisperFeatureExtractor()}
    return {"image": models.image(SIDES), "video": {**video, **reading}, "audio": audio}


def media(processor: AnyModalityProcessor, folder: Path, effort: Effort) -> Iterator[Result]:
    most = 2 if effort.tiny else 16
    files = {"image": _photos(folder, most), "audio": _sounds(folder, most)}
    videos = _videos(folder, 2, 16 if effort.tiny else 250)
    bare, whisper = processor.sub_processor("image"), processor.sub_processor("audio")
    read = {"image": load_image, "audio": lambda file: soundfile.read(file, dtype="float32")[0]}
    prepare = {
        "image": partial(bare, return_tensors="pt"),
        "audio": partial(whisper, sampling_rate=RATE, return_tensors="pt"),
    }

    def pair(modality: str, items: list[Any], from_files: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
        given = [(item, RATE) for item in items] if modality == "audio" and not from_files else items
        first = read[modality] if from_files else lambda item: item
        return (
            lambda: processor.process_media({modality: given}),
            lambda: prepare[modality]([first(item) for item in items]),
        )

    for count in (1, most):
        for modality, own in files.items():
            memory = [read[modality](file) for file in own[:count]]
            for where, items in (("files", own[:count]), ("in memory", memory)):
                found = compare(*pair(modality, items, where == "files"), effort)
                rival = type(processor.sub_processor(modality)).__name__
                yield Result(6, f"processor, {modality} {where}, {count}", rival, found, 1.02)
    found = compare(
        lambda: processor.process_media({"video": videos}),
        lambda: [bare(_frames(file), return_tensors="pt") for file in videos],
        effort,
    )
    yield Result(6, f"processor, video files, {len(videos)}", "PyAV and the image processor", found, 1.02)


def _frames(file: str, count: int = 8) -> list[np.ndarray]:
    """Frames of a video, by decoding all of it."""
    with av.open(file) as container:
        stream = container.streams.video[0]
        wanted = {*np.linspace(0, stream.frames - 1, count).round().astype(int).tolist()}
        return [one.to_ndarray(format="rgb24") for i, one in enumerate(container.decode(stream)) if i in wanted]


def collating(processor: AnyModalityProcessor, effort: Effort) -> Iterator[Result]:
    """Chats of four turns with an image; LLaVA's processor does not mask any labels."""
    tokenizer, sample = processor.tokenizer, Image.new("RGB", (SIDES.side, SIDES.side))
    settings = {"image_token": processor.modalities["image"].token, "num_additional_image_tokens": 1}
    theirs = LlavaProcessor(processor.sub_processor("image"), tokenizer, SIDES.patch, "default", **settings)
    chats = [_chat(4, 40, sample) for _ in range(2 if effort.tiny else 16)]
    collate, template = AnyModalityDataCollator(processor), processor.resolve_chat_template()

    def rival() -> Any:
        texts = [tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False) for chat in chats]
        batch = theirs(images=[[sample]] * len(chats), text=texts, return_tensors="pt", padding=True)
        return {**batch, "labels": batch["input_ids"].clone()}

    found = compare(lambda: collate([{"messages": chat} for chat in chats]), rival, effort)
    yield Result(6, "collator, chats of 4 turns", "LlavaProcessor", found, 1.0)


def turns(processor: AnyModalityProcessor, effort: Effort) -> Iterator[Result]:
    """Ids and the assistant's text; with generation tags, and with a template without them, for which Transformers does not
    find this text."""
    own = processor.chat_template
    plain = own.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    try:
        for name, template in (("", own), (", no tags", plain)):
            processor.chat_template = template
            for count in (2,) if effort.tiny else (8, 128, 512) if effort.largest else (8, 128):
                chat = _chat(count, 3)

                def rival() -> Any:
                    text = processor.tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False)  # noqa: B023
                    return processor.tokenizer(text)

                def with_mask() -> Any:
                    options = dict(tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
                    return processor.tokenizer.apply_chat_template(chat, chat_template=template, **options)  # noqa: B023

                rivals = {"template and tokenizer": rival}
                if template is own:
                    rivals["the same, with the assistant's mask"] = with_mask
                for told, other in rivals.items():
                    found = compare(lambda: processor.encode_chat(chat), other, effort)  # noqa: B023
                    yield Result(7, f"chat of {count} turns{name}", told, found, 1.3)
    finally:
        processor.chat_template = own


def _chat(count: int, words: int, image: Image.Image | None = None) -> list[dict[str, Any]]:
    said = " ".join(f"word{i}" for i in range(20, 20 + words))
    chat: list[dict[str, Any]] = []
    for _ in range(count):
        chat += [{"role": "user", "content": said}, {"role": "assistant", "content": said}]
    if image is not None:
        chat[0]["content"] = [{"type": "image", "image": image}, {"type": "text", "text": said}]
    return chat


def _photos(folder: Path, count: int) -> list[str]:
    """Smooth images of 640 x 480, as JPEG."""
    rng, files = np.random.default_rng(0), []
    for i in range(count):
        files.append(str(folder / f"{i}.jpg"))
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize((640, 480), 3).save(files[-1])
    return files


def _sounds(folder: Path, count: int) -> list[str]:
    """Audio files of ten seconds."""
    rng, files = np.random.default_rng(0), []
    for i in range(count):
        files.append(str(folder / f"{i}.wav"))
        soundfile.write(files[-1], 0.1 * rng.standard_normal(10 * RATE), RATE)
    return files


def _videos(folder: Path, count: int, length: int) -> list[str]:
    files = []
    for i in range(count):
        files.append(str(folder / f"{i}.mp4"))
        with av.open(files[-1], "w") as container:
            stream: Any = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for shade in range(length):
                frame = av.VideoFrame.from_ndarray(np.full((240, 320, 3), shade % 255, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return files


if __name__ == "__main__":
    main(__doc__ or "", measure)
