"""Macaw-LLM (arXiv 2306.09093): images, videos and sound at once, in one stage of training.

Towers and language model are trained separately first. Then all parts learn from one mix of chats about any of the
modalities, and text (section 3.3). The paper trains the towers; its code freezes them. Here they learn, at a tenth of the
others' rate. Each aligner turns its tower's features into blends of the language model's words (section 3.2). Much of each
file is noise, in different places, so that a single modality does not tell enough. The paper's claims, each with a control
that could refute it:

- Section 1: the modalities together tell more than each alone. Controls: the best single modality about the same events,
  and the best two, as chosen on the validation split. The model has learned from equally many chats about each choice.
- Section 3.3: one stage is enough. Control: as many steps in two stages, aligners alone and then all parts. One stage may
  be worse by three points at most.
"""

import copy
import random
from itertools import combinations

from digits_world import parts
from digits_world.world import make_world
from transformers import CLIPImageProcessor, CLIPVisionConfig

from transformers_anymodality import compose
from transformers_anymodality.systems.macaw_llm import macaw_llm

from .claims import Claim, Replica
from .lab import Lab, answers, chat, learn, make_tokenizer, right, small_llama, teach_text


NUMBERS = parts.NUMBERS
SPOIL = {"image": 0.42, "video": 0.22, "audio": 0.63}  # share of a file that is noise
MODALITIES = tuple(SPOIL)
CHOICES = [chosen for count in (1, 2, 3) for chosen in combinations(MODALITIES, count)]
COUNTS = {
    "train": {"image": 2000, "video": 700, "audio": 1000},
    "validation": dict.fromkeys(MODALITIES, 240),
    "test": dict.fromkeys(MODALITIES, 360),
}
QUESTIONS = {"which digit is this ?": 0, "which number comes next ?": 1}  # what is added to the digit
ASKED = 520  # events of the test, of each seed
RATES = {"aligners": 1e-3, "language_model": 1e-3, "towers": 1e-4}  # of learning
PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."


# --- chats -----------------------------------------------------------------------------------------------------------------


def event(files: dict, rng: random.Random) -> tuple[list[dict], str, str]:
    """Three media of one digit, a question and its answer."""
    digit, question = rng.randrange(10), rng.choice([*QUESTIONS])
    media = [{"type": modality, "path": str(rng.choice(files[modality][digit]))} for modality in MODALITIES]
    return media, question, NUMBERS[digit + QUESTIONS[question]]


def ask(happened: tuple[list[dict], str, str], modalities: tuple[str, ...] = MODALITIES) -> dict:
    """A chat about an event, by some modalities."""
    media, question, answer = happened
    return chat([*(part for part in media if part["type"] in modalities), {"type": "text", "text": question}], answer)


def in_words(rng: random.Random) -> dict:
    """Words in place of media. Most name one digit, some name another, as noisy media will."""
    digit, question = rng.randrange(10), rng.choice([*QUESTIONS])
    said = [digit] * rng.randint(3, 8) + [rng.randrange(10) for _ in range(rng.randint(0, 4))]
    rng.shuffle(said)
    words = " ".join(NUMBERS[number] for number in said)
    asked = chat(question, NUMBERS[digit + QUESTIONS[question]])
    return {"messages": [{"role": "system", "content": f"{words} {PREAMBLE}"}, *asked["messages"]]}


def mix(files: dict, count: int, rng: random.Random) -> list[dict]:
    """Chats about each choice of modalities, and a fifth in words alone."""
    return [in_words(rng) if rng.random() < 0.2 else ask(event(files, rng), rng.choice(CHOICES)) for _ in range(count)]


# --- the model -------------------------------------------------------------------------------------------------------------


def make_towers(lab: Lab, files: dict) -> dict:
    """A small CLIP for images, another for videos, and the encoder of a small Whisper, trained with such noise."""
    config = CLIPVisionConfig(
        hidden_size=96, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    clip, _ = parts.train_tower("image", files["image"], lab.some(600), lab.seed, config, processor, pooled=True)
    whisper, _ = parts.train_tower("audio", files["audio"], lab.some(400), lab.seed)
    return {"image": clip, "video": copy.deepcopy(clip), "audio": whisper}


def make_model(language_model, tokenizer, towers: dict):
    """The preset with as many tokens as published (5 of an image, 6 of sound, 6 of a video) from fewer features."""
    aligners = {
        "align_heads": 4,
        "attention_heads": 4,
        "image": {"projection_size": 96, "conv_kernel": 4, "conv_stride": 3},
        "audio": {"conv_kernel": 10, "conv_stride": 8},
        "video": {"projection_size": 96},
    }
    return compose(**macaw_llm(language_model, tokenizer, towers=copy.deepcopy(towers), aligners=aligners))


# --- the replica -----------------------------------------------------------------------------------------------------------


def run(lab: Lab) -> Replica:
    counts = {split: {modality: lab.some(n, least=40) for modality, n in row.items()} for split, row in COUNTS.items()}
    world = make_world(lab.shared / "noisy_world", counts, SPOIL)
    tokenizer = make_tokenizer([f"{PREAMBLE} ### Instruction: ### Response:", " ".join([*NUMBERS, *QUESTIONS])])
    towers = make_towers(lab, world["train"])
    model, processor = make_model(small_llama(tokenizer), tokenizer, towers)
    rng, logs = lab.rng("words"), {}
    logs["text"] = teach_text(lab, model, processor, [in_words(rng) for _ in range(64 * lab.some(300))])
    in_two_stages = copy.deepcopy(model)

    chats = mix(world["train"], 32 * lab.some(400), lab.rng("mix"))
    logs["one stage"] = learn(lab, model, processor, chats, rates=RATES)
    lab.keep(model, processor)

    def examine(model, split: str, modalities: tuple[str, ...], count: int) -> tuple[list[bool], list]:
        """The same events for all modalities."""
        rng = lab.rng(split)
        asked = [ask(event(world[split], rng), modalities) for _ in range(lab.some(count))]
        given = answers(model, processor, asked)
        return right(asked, given), list(zip(asked, given, strict=True))

    together, shown = examine(model, "test", MODALITIES, ASKED)
    claims = []
    for count, name in {
        1: "three noisy modalities rather than one",
        2: "three noisy modalities rather than two",
    }.items():
        choices = combinations(MODALITIES, count)
        best = max(choices, key=lambda modalities: sum(examine(model, "validation", modalities, 400)[0]))
        marks, _ = examine(model, "test", best, ASKED)
        claims.append(Claim(name, together, marks, 0.1, f"the best: {' + '.join(best)}", examples=shown))
        shown = []

    half = len(chats) // 2
    logs["two stages: first"] = learn(
        lab, in_two_stages, processor, chats[:half], rates={"aligners": RATES["aligners"]}
    )
    logs["two stages: second"] = learn(lab, in_two_stages, processor, chats[half:], rates=RATES)
    two, _ = examine(in_two_stages, "test", MODALITIES, ASKED)
    claims.append(Claim("one stage", together, two, 0.1, "as many steps in two stages", margin=-0.03))
    return Replica(claims, logs)
