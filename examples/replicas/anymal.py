"""AnyMAL (arXiv 2309.16058): modalities are aligned with a frozen language model, then it is taught to follow instructions.

The paper's claims, each with a control that could refute it:

- Section 3.1: captioning alone, with frozen towers and language model, is enough to train a resampler (image, video) and a
  linear layer (audio, IMU). Control: the answer about another item of the same modality. It is as good if captions do not
  depend on the item.
- Section 3.1: the language model may be quantised to 4 bits in this stage. Control: the same in full precision, which may be
  better by three points at most.
- Section 3.2: instruction tuning (aligners and LoRA) on interleaved media brings reasoning. Control: the aligned model
  before it.
"""

import random

from digits_world import parts
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed

from transformers_anymodality import compose, lora_config
from transformers_anymodality.features import FeatureStore, build_features
from transformers_anymodality.systems.anymal import anymal, chat_template

from .claims import Claim, Replica
from .lab import Lab, adapt, answers, chat, learn, make_tokenizer, right, small_llama, teach_text


NUMBERS = parts.NUMBERS
CAPTIONS = {
    "image": "a photo of a {}",
    "video": "a video of a {}",
    "audio": "someone says {}",
    "imu": "a hand writes {}",
}
# Stands for an item in chats of words alone.
NOUNS = {"image": "photo", "video": "video", "audio": "sound", "imu": "motion"}
QUESTIONS = {
    "which digit is it ?": lambda a: NUMBERS[a],
    "what is their sum ?": lambda a, b: NUMBERS[a + b],
    "which is larger ?": lambda a, b: NUMBERS[max(a, b)],
    "which came first ?": lambda a, b: NUMBERS[a],
}
TOWER_STEPS = {"image": 350, "audio": 350, "imu": 400}


# --- data --------------------------------------------------------------------------------------------------------------


def captions(world: dict, count: int, modalities: list[str], rng: random.Random) -> list[dict]:
    """Chats of an item and its caption, without other words."""
    chats = []
    for _ in range(count):
        modality, digit = rng.choice(modalities), rng.randrange(10)
        chats.append(chat([medium(world, modality, digit, rng)], CAPTIONS[modality].format(NUMBERS[digit])))
    return chats


def instructions(
    world: dict, count: int, rng: random.Random, modalities=tuple(CAPTIONS), pairs: float = 0.75
) -> list[dict]:
    """Chats of a question and one medium, or two of any modalities."""
    chats = []
    for _ in range(count):
        question = rng.choice(list(QUESTIONS)[1:]) if rng.random() < pairs else next(iter(QUESTIONS))
        digits = [rng.randrange(10) for _ in range(1 if question == next(iter(QUESTIONS)) else 2)]
        chosen = rng.sample(modalities, len(digits))
        media = [medium(world, modality, digit, rng) for modality, digit in zip(chosen, digits, strict=True)]
        chats.append(chat([*media, {"type": "text", "text": question}], QUESTIONS[question](*digits)))
    return chats


def medium(world: dict, modality: str, digit: int, rng: random.Random) -> dict:
    return {"type": modality, "path": str(rng.choice(world[modality][digit]))}


def in_words(count: int, rng: random.Random) -> list[dict]:
    """The same chats with words in place of media, as many as an item will have tokens."""
    chats = []
    for _ in range(count):
        modality, digits = rng.choice(list(CAPTIONS)), [rng.randrange(10), rng.randrange(10)]
        words = [" ".join([rng.choice(list(NOUNS.values()))] + [NUMBERS[d]] * rng.choice((1, 3, 3))) for d in digits]
        kind = rng.choice(["caption", *QUESTIONS])
        if kind == "caption":
            words = " ".join([NOUNS[modality]] + [NUMBERS[digits[0]]] * rng.choice((1, 3, 3)))
            chats.append(chat(words, CAPTIONS[modality].format(NUMBERS[digits[0]])))
        elif kind == "which digit is it ?":
            chats.append(chat(f"{kind} {words[0]}", QUESTIONS[kind](digits[0])))
        else:
            chats.append(chat(f"{kind} {' '.join(words)}", QUESTIONS[kind](*digits)))
    return chats


# --- the model -----------------------------------------------------------------------------------------------------------


def make_towers(lab: Lab) -> dict[str, dict]:
    """Frozen classifiers of digits. The image tower reads videos, frame by frame, as in the paper."""
    towers = {
        name: parts.train_tower(name, lab.world["train"][name], lab.some(steps), lab.seed)[0]
        for name, steps in TOWER_STEPS.items()
    }
    return {
        "image": {"tower": towers["image"], "processor": parts.image_processor(), "select_feature": "all"},
        "video": {"tower": "image", "select_feature": "all", "num_frames": 4},
        "audio": {"tower": towers["audio"], "processor": parts.feature_extractor(), "select_feature": "all"},
        "imu": {"tower": towers["imu"], "sampling_rate": 64, "select_feature": "all"},
    }


def make_model(language_model, tokenizer, towers: dict[str, dict]):
    """The preset with few tokens and small resamplers."""
    resampler = {"num_tokens": 4, "depth": 2, "num_heads": 4, "head_dim": 16}
    aligners = {
        "image": resampler,
        "video": resampler,
        "audio": {"num_tokens": 4},
        "imu": {"num_tokens": 4},
    }
    return compose(**anymal(language_model, tokenizer, towers=towers, aligners=aligners))


# --- the replica -----------------------------------------------------------------------------------------------------------


def align(lab: Lab, model, processor) -> list[dict]:
    """Stage 1: the aligners alone, on captions."""
    chats = captions(lab.world["train"], 32 * lab.some(400), list(CAPTIONS), lab.rng("align"))
    store = features(lab, model, processor, chats)
    return learn(lab, model, processor, chats, "aligners", learning_rate=3e-3, features=store)


def features(lab: Lab, model, processor, chats: list[dict]) -> FeatureStore:
    """Features of these chats' media. Towers are frozen, so one run serves all stages."""
    build_features(model, processor, chats, lab.folder / "features", verbose=False)
    return FeatureStore(lab.folder / "features", model)


def caption_claims(lab: Lab, model, processor) -> list[Claim]:
    kinds = {"image": "resampler", "video": "resampler", "audio": "linear", "imu": "linear"}
    claims = []
    for modality, kind in kinds.items():
        asked = captions(lab.world["test"], lab.some(360), [modality], lab.rng(f"{modality} captions"))
        given = answers(model, processor, asked, max_new_tokens=8)
        of_others = given[1:] + given[:1]
        shown = list(zip(asked, given, strict=True))
        measured, control = right(asked, given), right(asked, of_others)
        name = f"{modality} captions after alignment ({kind})"
        claims.append(Claim(name, measured, control, 0.1, "what was said of another", examples=shown))
    return claims


def four_bit_claim(lab: Lab, tokenizer, towers: dict, asked: list[dict], full: list[bool]) -> tuple[Claim, list[dict]]:
    """Stage 1 again, with the language model in 4 bits. `full`: right answers to `asked` in full precision."""
    language_model = AutoModelForCausalLM.from_pretrained(
        lab.folder / "language_model",
        quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    )
    set_seed(lab.seed)
    model, processor = make_model(language_model, tokenizer, towers)
    log = align(lab, model, processor)
    marks = right(asked, answers(model, processor, asked, max_new_tokens=8))
    return Claim("captions, language model in 4 bits", marks, full, 0.1, "in full precision", margin=-0.03), log


def instruct(lab: Lab, model, processor):
    """Stage 2: aligners, and LoRA on all linear layers of the language model."""
    chats = instructions(lab.world["train"], 32 * lab.some(300), lab.rng("instruct"))
    lora = lora_config(model, r=64, lora_alpha=16)
    store = features(lab, model, processor, chats)
    return adapt(lab, model, processor, chats, lora, learning_rate=2e-3, features=store)


def run(lab: Lab) -> Replica:
    vocabulary = [chat_template(None), *NUMBERS, *NOUNS.values(), *CAPTIONS.values(), *QUESTIONS]
    tokenizer = make_tokenizer(vocabulary)
    towers = make_towers(lab)
    model, processor = make_model(small_llama(tokenizer), tokenizer, towers)
    chats = in_words(64 * lab.some(500), lab.rng("words"))
    logs = {"text": teach_text(lab, model, processor, chats)}
    model.language_model.save_pretrained(lab.folder / "language_model")

    logs["align"] = align(lab, model, processor)
    claims = caption_claims(lab, model, processor)
    asked = captions(lab.world["test"], lab.some(480), list(CAPTIONS), lab.rng("captions"))
    full = right(asked, answers(model, processor, asked, max_new_tokens=8))

    test, count = lab.world["test"], lab.some(360)
    questions = {
        "reasoning over image + IMU": instructions(test, count, lab.rng("image, imu"), ("image", "imu"), pairs=1.0),
        "reasoning over any two modalities": instructions(test, count, lab.rng("any two"), pairs=1.0),
    }
    before = {name: right(chats, answers(model, processor, chats)) for name, chats in questions.items()}
    model, logs["instruct"] = instruct(lab, model, processor)
    for name, chats in questions.items():
        given = answers(model, processor, chats)
        shown, marks = list(zip(chats, given, strict=True)), right(chats, given)
        claims.append(Claim(name, marks, before[name], 0.12, "aligned, not instructed", examples=shown))
    lab.keep(model, processor)

    quantised, logs["align in 4 bits"] = four_bit_claim(lab, tokenizer, towers, asked, full)
    return Replica([*claims, quantised], logs)
