"""Writes the cards of the published systems: `python hub_cards/write.py`, with `--measure` to count their parts anew.

`parts.json` lists the parts of each system, planned by its preset at the published size, which takes a minute. The rest of a
card comes from the recipes in `examples/recipes` and the table below.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from anymodality.plain.inspection import Inspection, ModalityInfo, PartInfo
from transformers_anymodality.hub import Licences, make_card
from transformers_anymodality.hub.inspect import inspect_model


HERE = Path(__file__).parent
PARTS = HERE / "parts.json"
RECIPES = HERE.parent / "examples" / "recipes"

_LLAMA = "LLaMA's own licence (research, non-commercial)"
# Parts besides aligners that the published training changes. Language models: by LoRA (Macaw-LLM: in full).
_TRAINED = {
    "anymal": ("language_model",),
    "macaw_llm": ("image_tower", "audio_tower", "video_tower", "language_model"),
    "mplug_owl": ("image_tower", "language_model"),
    "pandagpt": ("language_model",),
    "x_llm": (),
}

# Facts that no checkpoint holds. Licences are those of the published weights, by part.
SYSTEMS: dict[str, dict[str, Any]] = {
    "anymal": {
        "paper": "2309.16058",
        "licences": {"imu_tower": "cc-by-nc-4.0", "language_model": "llama2"},
        "notes": ["No weights of AnyMAL were released; those of its parts keep their own licences."],
        "recipe": "anymal_align_image.yaml",
        "limits": ["No weights were released: aligners start at random and must be trained by the recipes."],
        "release": "IMU2CLIP's encoder is converted by `anymodality convert imu2clip`, resamplers by "
        "`convert perceiver_resampler`.",
    },
    "macaw_llm": {
        "paper": "2306.09093",
        "licences": {"language_model": "other", "image_tower": "mit", "video_tower": "mit", "audio_tower": "mit"},
        "notes": [f"language_model: {_LLAMA}."],
        "recipe": "macaw_llm_instruct.yaml",
        "limits": ["English only.", "Trained with one item of each modality per chat."],
        "release": "`anymodality convert macaw_llm --from release/ --output macaw_llm`",
    },
    "mplug_owl": {
        "paper": "2304.14178",
        "licences": {"language_model": "other", "image_tower": "apache-2.0", "image_aligner": "apache-2.0"},
        "notes": [f"language_model: {_LLAMA}; of the BLOOMZ release, BigScience RAIL 1.0."],
        "recipe": "mplug_owl_instruct.yaml",
        "limits": ["The LLaMA and BLOOMZ releases were trained on images only; videos need the video release."],
        "release": "`anymodality convert mplug_owl --from mplug-owl-llama-7b/ --output mplug_owl`",
    },
    "pandagpt": {
        "paper": "2305.16355",
        "licences": {"language_model": "other"}
        | {f"{modality}_tower": "cc-by-nc-sa-4.0" for modality in ("image", "audio", "depth", "thermal", "imu")}
        | {"image_aligner": "cc-by-nc-sa-4.0"},
        "notes": [f"language_model: Vicuna's delta on LLaMA, {_LLAMA}.", "ImageBind's own file says CC BY-NC 4.0."],
        "recipe": "pandagpt_instruct.yaml",
        "limits": [
            "Trained on images only: other modalities work as well as ImageBind binds them to images.",
            "An item is one token: small details, text and counts are lost.",
        ],
        "release": "`anymodality convert pandagpt --from release/ --output pandagpt`",
    },
    "x_llm": {
        "paper": "2305.04160",
        "licences": {"language_model": "other"},
        "notes": ["language_model: ChatGLM-6B's own licence.", "The interfaces came without a licence."],
        "recipe": "x_llm_joint.yaml",
        "limits": [
            "Speech is Mandarin.",
            "None of its weights were released under a licence: ask before you use them.",
        ],
        "release": "`anymodality convert x_llm --from release/ --output x_llm`",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="*", metavar="SYSTEM", help="count the parts of these, or of all")
    wanted = parser.parse_args().measure
    if wanted is not None:
        for name in wanted or SYSTEMS:
            known = json.loads(PARTS.read_text()) if PARTS.exists() else {}
            PARTS.write_text(json.dumps({**known, name: measure(name)}, indent=1, sort_keys=True) + "\n")
    for name in SYSTEMS:
        path(name).write_text(f"{system_card(name)}\n", encoding="utf-8")


def path(name: str) -> Path:
    return HERE / f"{name}.md"


def system_card(name: str) -> ModelCard:
    """The card of a system's release after its conversion."""
    system = SYSTEMS[name]
    found = json.loads(PARTS.read_text(encoding="utf-8"))[name]
    for part in found["parts"]:
        part["trained"] = part["name"].endswith("_aligner") or part["name"] in _TRAINED[name]
    inspection = Inspection(
        name,
        [PartInfo(**part) for part in found["parts"]],
        [ModalityInfo(**modality) for modality in found["modalities"]],
    )
    names = ", ".join(modality.name for modality in inspection.modalities)
    return make_card(
        None,
        name=name,
        inspection=inspection,
        licences=Licences(parts=system["licences"], notes=system["notes"]),
        base_models=(),
        languages=["zh"] if name == "x_llm" else ["en"],
        tags=[name, f"arxiv:{system['paper']}"],
        summary=f"[`{name}`](https://arxiv.org/abs/{system['paper']}) at its published size, for any of: {names}. "
        f"{inspection.parameters:,} parameters.",
        recipe=(RECIPES / system["recipe"]).read_text(encoding="utf-8"),
        sections={"Where the weights come from": system["release"]},
        limits=system["limits"],
        origin="of your choice" if name == "anymal" else "the release",
    )


def measure(name: str) -> dict[str, Any]:
    """The parts and modalities of a preset, planned at the published size."""
    import torch
    from modeling_tests.tiny_systems import byte_tokenizer

    from transformers_anymodality import compose, systems

    preset = getattr(systems, name)
    with torch.device("meta"):
        words = preset(tokenizer=byte_tokenizer())["language_model"].vocab_size
        found = inspect_model(*compose(**preset(tokenizer=byte_tokenizer(size=words)))).to_dict()
    return {key: found[key] for key in ("parts", "modalities")}


if __name__ == "__main__":
    main()
