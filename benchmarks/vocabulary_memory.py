"""Peak memory of a training step with a vocabulary of 128 thousand, against Transformers' own LLaVA class.

Both have the same weights and the same batch: prompts with an image of 16 tokens, answers of 32 tokens. Each takes its step
in a process of its own, whose largest resident size is read (`ru_maxrss`); what it was before the step is told, too.

    .venv/bin/python benchmarks/vocabulary_memory.py [--batch 8] [--length 512] [--answer 32] [--vocabulary 128000]
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from transformers_anymodality import compose


IMAGE_TOKENS = 16


def configs(vocabulary: int) -> tuple[CLIPVisionConfig, LlamaConfig]:
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8
    )
    language = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )
    return vision, language


def prepare(folder: Path, batch: int, length: int, answer: int, vocabulary: int) -> None:
    """Our model and the batch, in files; and LLaVA with the same weights."""
    torch.manual_seed(0)
    vision, language = configs(vocabulary)
    words = {f"word{i}": i for i in range(vocabulary - 1)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, "word0")), bos_token="word1", eos_token="word2"
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    image = {"tower": vision, "processor": images, "aligner": "mlp", "select_layer": -2, "select_feature": "patches"}
    model, _ = compose(language, {"image": image}, tokenizer=tokenizer)
    model.save_pretrained(folder / "ours")
    token = model.config.image_token_id
    theirs = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=model.config.text_config,
            image_token_index=token,
            image_seq_length=IMAGE_TOKENS,
        )
    )
    own = model.state_dict()
    renamed = {
        **{f"model.vision_tower.{k.removeprefix('image_tower.')}": v for k, v in own.items() if "_tower." in k},
        **{f"model.multi_modal_projector.{k.partition('.')[2]}": v for k, v in own.items() if "_aligner." in k},
        **{k.replace("language_model.model.", "model.language_model."): v for k, v in own.items() if ".model." in k},
        "lm_head.weight": own["language_model.lm_head.weight"],
    }
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    # LLaVA keeps what it does not read: the tower's last layer and norm.
    assert not unexpected and all(".layers.2." in key or "post_layernorm" in key for key in missing), (
        missing,
        unexpected,
    )
    theirs.save_pretrained(folder / "theirs")
    ids = torch.randint(3, vocabulary - 1, (batch, length))
    ids[:, 1 : 1 + IMAGE_TOKENS] = token
    labels = torch.full_like(ids, -100)
    for row in range(batch):  # answers end where the rows' own padding would begin
        end = length - 7 * row
        labels[row, end - answer : end] = ids[row, end - answer : end]
    pixels = torch.randn(batch, 3, 32, 32)
    save_file({"input_ids": ids, "labels": labels, "pixel_values": pixels}, folder / "batch.safetensors")


def step(folder: Path, side: str) -> None:
    """Takes the step, and prints the loss and the largest resident sizes before and after, in MB."""
    torch.set_num_threads(1)
    cls = AutoModelForCausalLM if side == "ours" else LlavaForConditionalGeneration
    model = cls.from_pretrained(folder / side, dtype=torch.float32).train()
    trained = ("image_aligner.", "model.multi_modal_projector.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    batch = load_file(folder / "batch.safetensors")
    mask = torch.ones_like(batch["input_ids"])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    as_trainer = {"skip_logits": True} if side == "ours" else {}  # as the collator and the Trainer ask
    loss = model(**batch, attention_mask=mask, **as_trainer).loss
    loss.backward()
    optimizer.step()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"loss": loss.item(), "before": before / 1024, "peak": after / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("batch", 8), ("length", 512), ("answer", 32), ("vocabulary", 128_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--step", nargs=2, metavar=("DIR", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step(Path(arguments.step[0]), arguments.step[1])
        return
    results = {}
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), arguments.batch, arguments.length, arguments.answer, arguments.vocabulary)
        for side in ("ours", "theirs"):
            command = [sys.executable, __file__, "--step", name, side]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[side] = json.loads(run.stdout.splitlines()[-1])
    assert abs(results["ours"]["loss"] - results["theirs"]["loss"]) < 1e-4, results  # agreement first
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, float32")
    print(
        f"rival: LlavaForConditionalGeneration of transformers {transformers.__version__}; {arguments.batch} rows of "
        f"{arguments.length} tokens, {arguments.answer} of them supervised, vocabulary of {arguments.vocabulary:,}"
    )
    for side, found in results.items():
        grown = found["peak"] - found["before"]
        print(f"{side:>7}: {found['peak']:,.0f} MB at most, {grown:,.0f} MB more than before the step")
    peak, grown = (
        results["ours"]["peak"] / results["theirs"]["peak"],
        (results["ours"]["peak"] - results["ours"]["before"])
        / (results["theirs"]["peak"] - results["theirs"]["before"]),
    )
    print(f"ours / rival = {peak:.2f} of the whole, {grown:.3f} of what the step adds")
    output = Path("outputs") / "benchmarks" / "vocabulary_memory.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in vars(arguments).items() if key != "step"}
    output.write_text(json.dumps({"settings": settings, **results, "peak": peak, "grown": grown}, indent=2) + "\n")


if __name__ == "__main__":
    main()
