"""What upstream's common tests import but their source distribution lacks, in the smallest form that serves.

A checkout (`UPSTREAM_TESTS`) has the real ones; those are then used instead, all but the media: upstream's are fetched
from the web, ours are made here, so that no run needs the network.
"""

import tempfile
import wave
from functools import cache
from pathlib import Path

import numpy as np
from transformers import pipeline


class GenerationTesterMixin:
    """Stands for upstream's tests of `generate`; the summary tells that they did not run."""


class ExportTesterMixin:
    """Stands for upstream's tests of export; the summary tells that they did not run."""


config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 3,
    "architectures": ["SomeModel"],
    "id2label": {0: "label"},
    "label2id": {"label": 0},
    "problem_type": "regression",
}


class _PipelineTests:
    """A task's own checks; `PipelineTesterMixin` then runs the examples in batches."""

    task = ""

    def get_test_pipeline(self, model, tokenizer, dtype="float32", **processors):
        # Upstream's batching looks at the feature extractor whatever the media; without it, at the image processor.
        processors.pop("feature_extractor", None)
        pipe = pipeline(self.task, model=model, tokenizer=tokenizer, dtype=dtype, max_new_tokens=4, **processors)
        return pipe, self.examples(processors.get("processor"))

    def run_pipeline_test(self, pipe, examples):
        for example in examples:
            outputs = pipe(example)
            assert isinstance(outputs, list) and isinstance(outputs[0]["generated_text"], str), outputs


class TextGenerationPipelineTests(_PipelineTests):
    task = "text-generation"

    def examples(self, processor):
        return ["This is a test", "Another test"]


class ImageTextToTextPipelineTests(_PipelineTests):
    task = "image-text-to-text"

    def examples(self, processor):
        image = url_to_local_path("coco_sample.png")
        return [{"text": f"{processor.image_token} {text}", "images": image} for text in ("this ?", "and that ?")]


class AnyToAnyPipelineTests(ImageTextToTextPipelineTests):
    task = "any-to-any"

    def run_pipeline_test(self, pipe, examples):
        super().run_pipeline_test(pipe, examples)
        media = [("image", "coco_sample.png"), ("audio", "sound.wav"), ("video", "video.mp4")]
        content = [{"type": kind, "path": url_to_local_path(name)} for kind, name in media]
        content += [{"type": "text", "text": "what is this ?"}]
        chats = [[{"role": "user", "content": part}] for part in (content, content[::-1])]
        outputs = pipe(chats)
        assert len(outputs) == 2 and all(output[0]["generated_text"] for output in outputs), outputs


class FeatureExtractionPipelineTests(_PipelineTests):
    task = "feature-extraction"

    def get_test_pipeline(self, model, tokenizer, dtype="float32", **processors):
        return pipeline(self.task, model=model, tokenizer=tokenizer, dtype=dtype), ["This is a test", "Another"]

    def run_pipeline_test(self, pipe, examples):
        hidden = pipe.model.config.get_text_config().hidden_size
        for example in examples:
            assert np.shape(pipe(example))[0::2] == (1, hidden)


@cache
def _media_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="upstream-media-")


@cache
def url_to_local_path(url: str, return_url_if_not_found: bool = True) -> str:
    """A made-up file in place of the one that upstream would fetch, of the same kind."""
    path = Path(_media_folder().name) / url.rpartition("/")[2]
    if path.suffix in (".png", ".jpg"):
        _write_image(path)
    elif path.suffix in (".wav", ".mp3"):
        path = path.with_suffix(".wav")
        _write_sound(path)
    elif path.suffix == ".mp4":
        _write_video(path)
    else:
        raise ValueError(f"No stand-in for {url}")
    return str(path)


def _picture(shift: int = 0) -> np.ndarray:
    row, column = np.mgrid[0:48, 0:64]
    return np.stack([row * 4 + shift, column * 3, row + column + shift], axis=-1).astype(np.uint8)


def _write_image(path: Path) -> None:
    from PIL import Image

    Image.fromarray(_picture()).save(path)


def _write_sound(path: Path) -> None:
    sound = np.sin(np.arange(8000) / 8) * 8000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(sound.astype("<i2").tobytes())


def _write_video(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shift in range(11):
            frame = av.VideoFrame.from_ndarray(_picture(4 * shift), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
