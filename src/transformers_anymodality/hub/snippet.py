"""The code of a card: it loads the checkpoint, gives it a medium of every modality, and prints the answer."""

from __future__ import annotations

from collections.abc import Iterable


# A file of each modality, as cards name it; those of other modalities bear the modality's name.
FILES = {
    "image": "photo.jpg",
    "video": "clip.mp4",
    "audio": "speech.wav",
    "imu": "walk.csv",
    "depth": "depth.png",
    "thermal": "thermal.png",
    "text": "page.txt",
}
_EXTRAS = {"image": "image", "depth": "image", "thermal": "image", "video": "image,video", "audio": "audio"}

_COMPOSITE = """\
import transformers_anymodality  # registers everything with the Auto classes
from transformers import AutoModelForCausalLM, AutoProcessor

model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")
{adapter}processor = AutoProcessor.from_pretrained("{name}")
messages = [
    {{
        "role": "user",
        "content": [
{media}
            {{"type": "text", "text": "What is going on?"}},
        ],
    }}
]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
output = model.generate(**inputs.to(model.device), max_new_tokens=40)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
_ADAPTER = 'model.load_adapter("{name}/adapter")  # the release\'s LoRA weights\n'
_TOWER = """\
import transformers_anymodality  # registers everything with the Auto classes
from transformers import AutoModel

model = AutoModel.from_pretrained("{name}")"""


def snippet(name: str, modalities: Iterable[str], adapter: bool = False) -> str:
    """Of a composite; of a tower, where there are no modalities."""
    media = "\n".join(
        f'            {{"type": "{modality}", "path": "{FILES.get(modality, modality)}"}},' for modality in modalities
    )
    return (_COMPOSITE if media else _TOWER).format(
        name=name, media=media, adapter=_ADAPTER.format(name=name) if adapter else ""
    )


def extras(modalities: Iterable[str]) -> str:
    """The extras of this package that the modalities need, as `pip install` takes them."""
    names = {extra for modality in modalities for extra in _EXTRAS.get(modality, "signal").split(",")}
    return ",".join(sorted(names | {"image"}))
