"""Repositories of the Hub, as if they had been downloaded."""

from pathlib import Path

from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel, WhisperModel

from modeling_tests import tiny


def publish(cache: Path, name: str, *objects) -> None:
    """Puts a repository into a Hub cache, as if it had been downloaded."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for thing in objects:
        thing.save_pretrained(repository / "snapshots" / commit)


def publish_documented(cache: Path) -> None:
    """Tiny versions of what README and documentation compose of most."""
    publish(cache, "Qwen/Qwen3-0.6B", tiny.language_model("qwen3"), tiny.tokenizer())
    siglip = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    small = SiglipImageProcessor(size={"height": 32, "width": 32})
    publish(cache, "google/siglip2-base-patch16-224", SiglipVisionModel(siglip), small)
    publish(cache, "openai/whisper-small", WhisperModel(tiny.whisper_config()), tiny.feature_extractor())
