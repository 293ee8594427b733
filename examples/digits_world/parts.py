"""The parts that the modalities are composed of: small towers of stock architectures and a small language model.

They stand in for parts from the Hub. Each is trained from random weights, in the usual way of its kind: towers classify, the
language model reads text.
"""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from tqdm import tqdm
from transformers import (
    AutoModel,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PatchTSTConfig,
    PatchTSTModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetModel,
    Trainer,
    TrainingArguments,
    ViTImageProcessor,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from transformers_anymodality.modalities import MODALITIES

from . import motion, speech


NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen"
).split()
WORDS = ["<pad>", "<s>", "</s>", "<unk>", *NUMBERS]
WORDS += "user assistant : ? which digit is this what the sum of you see and hear feel watch touch sense".split()

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role + ' : ' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + ' </s>' }}{% endgeneration %}"
    "{% else %}{{ message.content + ' ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)


# --- towers ----------------------------------------------------------------------------------------------------------


def image_processor() -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def feature_extractor() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=40, sampling_rate=speech.RATE, chunk_length=1)


def make_tower(modality: str) -> PreTrainedModel:
    """An untrained tower for "image", "depth", "thermal", "audio" or "imu"."""
    if modality == "audio":
        whisper = WhisperConfig(
            num_mel_bins=40,
            d_model=64,
            encoder_layers=2,
            encoder_attention_heads=4,
            encoder_ffn_dim=128,
            decoder_layers=1,  # not built, but the config must describe one that could be
            decoder_attention_heads=4,
            max_source_positions=50,
            dropout=0.1,
        )
        return WhisperEncoder(whisper)
    if modality == "imu":
        return PatchTSTModel(
            PatchTSTConfig(
                num_input_channels=len(motion.CHANNELS), context_length=motion.SAMPLES, patch_length=16, patch_stride=16,
                d_model=64, num_hidden_layers=2, num_attention_heads=4, ffn_dim=128, channel_attention=True,
            )
        )  # fmt: skip
    return ResNetModel(
        ResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 1, 1], layer_type="basic")
    )


def train_tower(
    modality: str,
    files: dict[int, list[Path]],
    steps: int,
    seed: int = 0,
    config: PreTrainedConfig | None = None,
    processor: Any = None,
    pooled: bool = False,
) -> tuple[PreTrainedModel, float]:
    """Trains a tower to tell digits apart, by a linear layer that is thrown away.

    Args:
        modality, files: a modality, and its files as digit -> files.
        config, processor: another tower than `make_tower`'s, and its sub-processor.
        pooled: classify by the pooled output, not by the mean of the features.

    Returns:
        The tower, frozen, in eval mode; and its accuracy on its last hundred batches.
    """
    torch.manual_seed(seed)
    inputs, labels = read_all(modality, files, processor)
    tower = (make_tower(modality) if config is None else AutoModel.from_config(config)).train()
    name = tower.main_input_name

    def see(batch: torch.Tensor) -> torch.Tensor:
        output = tower(**{name: batch})
        return output.pooler_output if pooled else _mean(output.last_hidden_state)

    with torch.no_grad():
        width = see(inputs[:2]).shape[-1]
    head = nn.Linear(width, 10)
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    right = []
    for _ in tqdm(range(steps), desc=f"train the {modality} tower", leave=False, disable=None):
        pick = torch.randint(len(inputs), (64,))
        logits = head(see(_vary(inputs[pick])))
        loss = nn.functional.cross_entropy(logits, labels[pick], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right.append((logits.argmax(-1) == labels[pick]).float().mean())
    return tower.eval().requires_grad_(False), float(torch.stack(right[-100:]).mean())


def read_all(modality: str, files: dict[int, list[Path]], processor: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Every file of a modality as the tower's input, (items, ...), and the digits, (items,)."""
    spec = MODALITIES[modality]
    digits = [(file, digit) for digit, found in files.items() for file in found]
    options = spec.options
    processor = processor or (feature_extractor() if modality == "audio" else image_processor())
    if modality == "imu":
        options["sampling_rate"] = motion.RATE
        processor = spec.default_processor(make_tower("imu").config, options)
    items = [
        spec.read(file, processor, options)
        for file, _ in tqdm(digits, desc=f"read {modality}", leave=False, disable=None)
    ]
    return next(iter(spec.extract(items, processor, options).values())), torch.tensor([digit for _, digit in digits])


def _mean(states: torch.Tensor) -> torch.Tensor:
    """Mean over time, over the places of a map, or over channels and patches: (items, width)."""
    return states.flatten(2).mean(2) if states.shape[-1] == states.shape[-2] else states.flatten(1, -2).mean(1)


def _vary(inputs: torch.Tensor) -> torch.Tensor:
    """Moves pictures by up to two pixels, so that a tower does not memorise the files."""
    if inputs.ndim != 4:
        return inputs + 0.05 * torch.randn_like(inputs)
    row, column = random.randint(0, 4), random.randint(0, 4)
    padded = nn.functional.pad(inputs, (2, 2, 2, 2), mode="replicate")
    return padded[:, :, row : row + inputs.shape[2], column : column + inputs.shape[3]]


# --- language model --------------------------------------------------------------------------------------------------


def make_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def train_language_model(tokenizer: PreTrainedTokenizerFast, output_dir: Path, steps: int) -> LlamaForCausalLM:
    """A language model that can name and add digits that it reads, by the stock Trainer.

    It reads each digit as one to four words, as an item will later have several tokens. Noise on its
    embeddings (NEFTune) makes it tolerate tokens that are near a word, but are not one.
    """
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS), hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2, initializer_range=0.05,
        )
    )  # fmt: skip
    rng = random.Random(0)
    texts = [tokenizer.apply_chat_template(_chat_in_words(rng), tokenize=False) for _ in range(64 * steps)]
    arguments = TrainingArguments(
        output_dir=str(output_dir), max_steps=steps, per_device_train_batch_size=64, learning_rate=3e-3,
        lr_scheduler_type="cosine", warmup_steps=20, neftune_noise_alpha=5, report_to="none", save_strategy="no",
        logging_steps=50, use_cpu=True, seed=0,
    )  # fmt: skip
    Trainer(
        model=model,
        args=arguments,
        train_dataset=[{"input_ids": ids} for ids in tokenizer(texts)["input_ids"]],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    ).train()
    return model.eval().requires_grad_(False)


def _chat_in_words(rng: random.Random) -> list[dict]:
    digits = [rng.randrange(10) for _ in range(rng.choice((1, 2, 2)))]
    times = rng.choice((1, 4, 4))
    words = " ".join(" ".join([NUMBERS[digit]] * times) for digit in digits)
    question = "which digit is this ?" if len(digits) == 1 else sum_question("image", "audio", rng)
    return [
        {"role": "user", "content": f"{words} {question}"},
        {"role": "assistant", "content": NUMBERS[sum(digits)]},
    ]


VERBS = {"image": "see", "video": "watch", "audio": "hear", "imu": "feel", "depth": "touch", "thermal": "sense"}


def sum_question(first: str, second: str, rng: random.Random | None = None) -> str:
    """`what is the sum of the digit you see and the one you hear ?`; with `rng`, of any two modalities."""
    if rng is not None:
        first, second = rng.sample(list(VERBS), 2)
    return f"what is the sum of the digit you {VERBS[first]} and the one you {VERBS[second]} ?"
