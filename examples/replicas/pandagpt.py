"""PandaGPT (arXiv 2305.16355): it learns to talk about images only, then it talks about all modalities.

The paper rests on ImageBind (arXiv 2305.05665, section 3). There, contrastive training on pairs binds each modality to a
frozen image tower. Here too: an image tower learns with words, as CLIP does. Sound, depth, warmth and motion are bound to it
by pairs that show one digit. A language model that knows digits as words gets one linear layer and LoRA, trained on chats
about images only (section 2). The paper's claims, each with a control that could refute it:

- Section 3: modalities without any chat in training are understood, video through the image tower. Control: towers that
  were trained as long and tell digits apart as well (`make_tower` prints it), but not bound: each learned with its own
  words, so each has its own space.
- Section 3, "arithmetic": an image and a sound, added into one token, are understood together. The question was
  learned from chats about two images. Control: the sound tower that is not bound.
- Section 3: so a noisy image and a noisy sound of one digit add up, though the towers have not met such noise. Control: the
  better one of the two alone, as chosen on the validation split.
"""

import copy
import os
import random
from concurrent.futures import ProcessPoolExecutor

import torch
from digits_world import motion, parts
from digits_world.world import make_world
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModel

from transformers_anymodality import compose, lora_config
from transformers_anymodality.features import FeatureStore, build_features
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.systems.pandagpt import pandagpt
from transformers_anymodality.towers import imagebind

from .claims import Claim, Replica
from .lab import Lab, adapt, answers, chat, make_tokenizer, right, small_llama, teach_text


NUMBERS = parts.NUMBERS
WIDTH = 64  # of the space that the modalities share
TOWER_STEPS = {"image": 400, "video": 400, "audio": 300, "imu": 300, "depth": 400, "thermal": 400}
QUESTIONS = {
    "which digit is this ?": lambda a: NUMBERS[a],
    "which number comes next ?": lambda a: NUMBERS[a + 1],
    "what is twice this number ?": lambda a: NUMBERS[2 * a],
}
BOTH = "which two digits are these ?"
SPOIL = {"image": 0.25, "audio": 0.25}  # share of a file's pieces that are noise, for the last claim


# --- towers and model ------------------------------------------------------------------------------------------------------


def make_model(language_model, tokenizer):
    """The preset with small untrained towers, and sub-processors for the short files of this world."""
    trunk = {
        "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192,
        "projection_dim": WIDTH, "initializer_range": 0.08, "drop_path_rate": 0.0, "head_dropout": 0.0,
    }  # fmt: skip
    picture = {"image_size": 32, "patch_size": 8, "num_channels": 3}
    sound = {"num_mel_bins": 32, "target_length": 98}
    towers = {
        "image": imagebind.ImageBindVisionConfig(**trunk, image_size=30, patch_size=5),
        "audio": imagebind.ImageBindAudioConfig(**trunk, **sound, patch_stride=8, logit_scale=None),
        "depth": imagebind.ImageBindDepthConfig(**trunk, **picture),
        "thermal": imagebind.ImageBindThermalConfig(**trunk, **picture),
        "imu": imagebind.ImageBindImuConfig(**trunk, context_length=motion.SAMPLES),
    }
    settings = pandagpt(language_model, tokenizer, towers=towers)
    for modality, own in {
        "video": {"processor": imagebind.ImageBindVideoProcessor(30, num_clips=4, clip_seconds=1 / 8, num_crops=1)},
        "audio": {"processor": imagebind.ImageBindAudioFeatureExtractor(**sound, num_clips=1, clip_seconds=1.0)},
        "depth": {"processor": parts.image_processor()},
        "thermal": {"processor": parts.image_processor()},
        "imu": {"sampling_rate": motion.RATE, "mean": [0, 9.81, 0, 0, 0, 0], "std": [3.0, 3, 3, 1, 1, 1]},
    }.items():
        settings["modalities"][modality] |= own
    return compose(**settings)


def make_tower(task: tuple) -> dict[str, torch.Tensor]:
    """Trains a tower by contrast with words, which learn with it, or with images.

    Args:
        task: a modality; its tower's config; the composite's processor; digit -> files, to train and to test; steps;
            digit -> embeddings of images (items, WIDTH), or None for words; the seed.

    Returns:
        The tower's weights.
    """
    modality, config, processor, files, test_files, steps, images, seed = task
    torch.set_num_threads(1)  # towers are made side by side
    torch.manual_seed(100 * seed + list(TOWER_STEPS).index(modality))
    inputs, digits = read(processor, modality, files)
    tower, words = AutoModel.from_config(config).train(), nn.Embedding(10, WIDTH)
    parameters = [*tower.parameters(), *words.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        pick = torch.randint(len(inputs), (64,))
        own = normalize(tower(vary(inputs[pick])).pooler_output, dim=-1)
        if images is None:
            beside = normalize(words(digits[pick]), dim=-1)
        else:
            beside = torch.stack([images[d][torch.randint(len(images[d]), ())] for d in digits[pick].tolist()])
        scores, pairs = 10 * own @ beside.T, torch.arange(len(pick))
        loss = (cross_entropy(scores, pairs) + cross_entropy(scores.T, pairs)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()

    known = embed(tower.eval(), inputs, digits)
    tests = embed(tower, *read(processor, modality, test_files))
    means = normalize(torch.stack([known[digit].mean(0) for digit in sorted(known)]), dim=-1)
    right = torch.cat([(tests[digit] @ means.T).argmax(1) == digit for digit in tests]).float().mean()
    print(f"  {modality} tower, {'not ' if images is None else ''}bound to images: {right:.0%} nearest to their digit")
    return tower.state_dict()


@torch.no_grad()
def embed(tower, inputs: torch.Tensor, digits: torch.Tensor) -> dict[int, torch.Tensor]:
    """Digit -> embeddings (items, WIDTH)."""
    embeddings = torch.cat([tower(part).pooler_output for part in inputs.split(256)])
    return {digit: embeddings[digits == digit] for digit in digits.unique().tolist()}


def read(processor, modality: str, files: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """All files of a modality as the composite reads them, (items, ...), and their digits, (items,)."""
    spec, own, options = (
        MODALITIES[modality],
        processor.sub_processor(modality),
        processor.modalities[modality].options,
    )
    digits = [(file, digit) for digit, found in files.items() for file in found]
    items = [spec.read(file, own, options) for file, _ in digits]
    inputs = next(iter(spec.extract(items, own, options).values()))
    return inputs, torch.tensor([digit for _, digit in digits])


def vary(inputs: torch.Tensor) -> torch.Tensor:
    """One frame of each video. Pictures and spectrograms are moved a little, signals get noise."""
    if inputs.ndim == 6:
        inputs = inputs[:, torch.randint(inputs.shape[1], (1,))]
    if inputs.ndim == 3:
        return inputs + 0.05 * torch.randn_like(inputs)
    return inputs.roll(torch.randint(-2, 3, (2,)).tolist(), dims=(-2, -1))


def make_towers(lab: Lab, model, processor) -> tuple[dict[str, dict], dict[str, dict]]:
    """Weights of towers: of images and those bound to them; and of the other modalities, not bound."""
    files, test_files = lab.world["train"], lab.world["test"]

    def task(modality: str, images: dict | None = None) -> tuple:
        steps = lab.some(TOWER_STEPS[modality])
        config = model.tower(modality).config
        return modality, config, processor, files[modality], test_files[modality], steps, images, lab.seed

    with ProcessPoolExecutor(os.cpu_count()) as pool:
        alone = dict(zip(TOWER_STEPS, pool.map(make_tower, map(task, TOWER_STEPS)), strict=True))
        model.image_tower.load_state_dict(alone["image"])
        images = embed(model.image_tower, *read(processor, "image", files["image"]))
        modalities = [modality for modality in TOWER_STEPS if modality not in ("image", "video")]
        bound = dict(
            zip(modalities, pool.map(make_tower, [task(modality, images) for modality in modalities]), strict=True)
        )
    image = alone.pop("image")
    return {"image": image, "video": image, **bound}, alone


# --- chats -----------------------------------------------------------------------------------------------------------------


def ask(files: dict, modalities: list[str], digits: list[int], question: str, rng: random.Random) -> dict:
    """A chat about media that stand side by side; two digits are told in their order."""
    media = [{"type": s, "path": str(rng.choice(files[s][d]))} for s, d in zip(modalities, digits, strict=True)]
    return chat([*media, {"type": "text", "text": question}], answer(question, digits))


def answer(question: str, digits: list[int]) -> str:
    return " and ".join(NUMBERS[d] for d in sorted(digits)) if question == BOTH else QUESTIONS[question](digits[0])


def instructions(files: dict, count: int, rng: random.Random) -> list[dict]:
    """Chats about one image, or two."""
    chats = []
    for _ in range(count):
        question = rng.choice([*QUESTIONS, BOTH, BOTH])
        digits = rng.sample(range(10), 2 if question == BOTH else 1)
        chats.append(ask(files, ["image"] * len(digits), digits, question, rng))
    return chats


def in_words(count: int, rng: random.Random) -> list[dict]:
    """The same chats with words where images will stand."""
    chats = []
    for _ in range(count):
        question = rng.choice([*QUESTIONS, BOTH])
        digits = rng.sample(range(10), 2 if question == BOTH else 1)
        words = " ".join(NUMBERS[digit] for digit in digits)
        chats.append(chat(f"<Img>{words}</Img> {question}", answer(question, digits)))
    return chats


# --- the replica -----------------------------------------------------------------------------------------------------------


def instruct(lab: Lab, model, processor):
    """The one stage: the linear layer and LoRA as published, on chats about images."""
    chats = instructions(lab.world["train"], 32 * lab.some(400), lab.rng("instruct"))
    settings = {"lora_alpha": 32, "lora_dropout": 0.1, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    build_features(model, processor, chats, lab.folder / "features", verbose=False)
    store = FeatureStore(lab.folder / "features", model)
    lora = lora_config(model, r=32, **settings)
    return adapt(lab, model, processor, chats, lora, learning_rate=3e-3, features=store)


def examine(model, processor, chats: list[dict], instead: dict | None = None) -> tuple[list[bool], list]:
    """Which answers are right, and chats with answers; `instead`: modality -> weights that its tower has for the time."""
    own = {modality: copy.deepcopy(model.tower(modality).state_dict()) for modality in instead or {}}
    for modality in own:
        model.tower(modality).load_state_dict(instead[modality])
    given = answers(model, processor, chats, max_new_tokens=5)
    for modality in own:
        model.tower(modality).load_state_dict(own[modality])
    return right(chats, given), list(zip(chats, given, strict=True))


def zero_shot(lab: Lab, model, processor, alone: dict, rng: random.Random) -> list[Claim]:
    """Asks what chats about images taught, about each other modality, and about an image and a sound."""
    files, count, claims = lab.world["test"], lab.some(360), []
    for modality in alone:
        asked = [ask(files, [modality], [rng.randrange(10)], rng.choice([*QUESTIONS]), rng) for _ in range(count)]
        measured, shown = examine(model, processor, asked)
        control, _ = examine(model, processor, asked, {modality: alone[modality]})
        claims.append(Claim(f"{modality}, zero-shot", measured, control, 0.1, "towers not bound", examples=shown))
    asked = [ask(files, ["image", "audio"], rng.sample(range(10), 2), BOTH, rng) for _ in range(count)]
    measured, shown = examine(model, processor, asked)
    control, _ = examine(model, processor, asked, {"audio": alone["audio"]})
    claims.append(
        Claim("image + audio, two digits, zero-shot", measured, control, 1 / 45, "towers not bound", examples=shown)
    )
    return claims


def noisy_pair(lab: Lab, model, processor, rng: random.Random) -> Claim:
    """An image and a sound of one digit, beside the one of them that is the better alone on the validation split."""
    counts = {split: {name: lab.some(360, least=40) for name in SPOIL} for split in ("validation", "test")}
    files = make_world(lab.shared / "noisy_world", counts, SPOIL)
    question = next(iter(QUESTIONS))

    def ask_both(split: str) -> list[dict]:
        return [
            ask(files[split], [*SPOIL], [digit] * 2, question, rng)
            for digit in rng.choices(range(10), k=lab.some(360))
        ]

    def single(modality: str, asked: list[dict]) -> list[dict]:
        turns = [[turn["content"] for turn in one["messages"]] for one in asked]
        return [
            chat([part for part in content if part["type"] in (modality, "text")], reply) for content, reply in turns
        ]

    known, asked = ask_both("validation"), ask_both("test")
    best = max(SPOIL, key=lambda modality: sum(examine(model, processor, single(modality, known))[0]))
    control, _ = examine(model, processor, single(best, asked))
    measured, shown = examine(model, processor, asked)
    return Claim("image + audio, one digit, both noisy", measured, control, 0.1, f"{best} alone", examples=shown)


def run(lab: Lab) -> Replica:
    tokenizer = make_tokenizer(["### Human: <Img></Img> Assistant:", " ".join([*NUMBERS, *QUESTIONS, BOTH]), "and"])
    model, processor = make_model(small_llama(tokenizer), tokenizer)
    bound, alone = make_towers(lab, model, processor)
    logs = {"text": teach_text(lab, model, processor, in_words(64 * lab.some(300), lab.rng("words")))}
    for modality, weights in bound.items():
        model.tower(modality).load_state_dict(weights)
    model, logs["instruct"] = instruct(lab, model, processor)
    lab.keep(model, processor)
    rng = lab.rng("questions")
    claims = zero_shot(lab, model, processor, alone, rng)
    return Replica([*claims, noisy_pair(lab, model, processor, rng)], logs)
