"""mPLUG-Owl (arXiv 2304.14178): the tower is trained with a frozen language model, which is then tuned for dialogue.

The paper's claims, each with a control that could refute it:

- Section 3.2, stage 1: tower and abstractor are trained in front of the frozen language model. Control: the abstractor
  alone, behind a random tower.
- Section 3.2, stage 2: LoRA on the language model keeps its knowledge of text, if it learns from text and multimodal chats
  together, with tower and abstractor frozen. The text asks for opposites of words, which chats about images do not need.
  Chats of stage 2 hold half of the words. Controls: the same before stage 2, which may be better by two points at most; and
  stage 2 without text, about the words that the mix repeats, and about the others. LoRA is larger and learns faster than in
  the paper: otherwise the control forgets nothing.
- Section 5: several images are related to each other ("which image shows the larger number ?"), though no chat of either
  stage has two images in one turn. Controls: one of the two images exchanged; stage 1 alone.
- Section 5: the third turn still knows the image of the first, after another image. Controls: the first image
  exchanged; stage 1 alone.
"""

import copy
import random

from digits_world import parts
from transformers import AutoModelForCausalLM, TrainerCallback

from transformers_anymodality import compose, lora_config
from transformers_anymodality.systems.mplug_owl import chat_template, mplug_owl
from transformers_anymodality.systems.mplug_owl.tower import MplugOwlVisionConfig

from .claims import Claim, Replica
from .lab import Lab, adapt, answers, learn, make_tokenizer, right, small_llama, teach_text


NUMBERS = parts.NUMBERS
OPPOSITES = dict(
    pair.split("/")
    for pair in "hot/cold big/small day/night old/young wet/dry up/down left/right black/white open/closed fast/slow "
    "high/low rich/poor full/empty hard/soft early/late light/heavy sweet/sour loud/quiet near/far sharp/blunt good/bad "
    "happy/sad long/short wide/narrow thick/thin strong/weak clean/dirty true/false first/last north/south east/west "
    "front/back inside/outside summer/winter push/pull buy/sell win/lose love/hate begin/end rough/smooth".split()
)
REHEARSED = [word for pair in list(OPPOSITES.items())[::2] for word in pair]  # in chats of stage 2
UNREHEARSED = [word for pair in list(OPPOSITES.items())[1::2] for word in pair]
OPPOSITES |= {second: first for first, second in OPPOSITES.items()}
WORDS = (
    "which digit is this ? what is it plus look at . i see it now another one too did the first image show larger number "
    "second are opposites of and"
)
IMAGE_TOKENS = 5  # four queries and the end token
RATE = 3e-3  # of learning, in stage 2


# --- data: chats whose lines are images, or words in their place ---------------------------------------------------------


class Images:
    """Lines that show a digit."""

    def __init__(self, files: dict, rng: random.Random):
        self.files, self.rng = files, rng

    def __call__(self, digit: int) -> list[dict]:
        return [{"type": "image", "path": str(self.rng.choice(self.files[digit]))}]


class Words:
    """Lines that say a digit, as often as an image has tokens, or once."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def __call__(self, digit: int) -> str:
        return " ".join([NUMBERS[digit]] * self.rng.choice((1, IMAGE_TOKENS - 1, IMAGE_TOKENS)))


def dialogue(*turns: tuple) -> dict:
    """Turns of lines of the user, the last of each being the answer."""
    messages = []
    for *lines, answer in turns:
        messages += [{"role": "user", "content": line} for line in lines]
        messages += [{"role": "assistant", "content": answer}]
    return {"messages": messages}


def naming(show, rng: random.Random) -> dict:
    digit = rng.randrange(10)
    return dialogue((show(digit), "which digit is this ?", NUMBERS[digit]))


def adding(show, rng: random.Random) -> dict:
    digit, more = rng.randrange(10), rng.randrange(1, 9)
    return dialogue((show(digit), f"what is it plus {NUMBERS[more]} ?", NUMBERS[digit + more]))


def comparing(show, rng: random.Random) -> dict:
    """Two images in one turn."""
    digits = rng.sample(range(10), 2)
    larger = ("first", "second")[digits.index(max(digits))]
    return dialogue((*map(show, digits), "which image shows the larger number ?", larger))


def remembering(show, rng: random.Random) -> dict:
    """Three turns, the last about the first."""
    first, second = rng.sample(range(10), 2)
    look = (show(first), "look at this .", "i see it")
    then = rng.choice(
        [
            (show(second), "which digit is this ?", NUMBERS[second]),
            (show(second), "now look at another one .", "i see it too"),
        ]
    )
    return dialogue(look, then, ("which digit did the first image show ?", NUMBERS[first]))


def rehearsed(show, rng: random.Random) -> dict:
    return opposites(REHEARSED, rng)


def unrehearsed(show, rng: random.Random) -> dict:
    return opposites(UNREHEARSED, rng)


def opposites(words: list[str], rng: random.Random) -> dict:
    """In text alone."""
    one, other = rng.sample(words, 2)
    return dialogue((f"what are opposites of {one} and {other} ?", f"{OPPOSITES[one]} {OPPOSITES[other]}"))


def chats(count: int, rng: random.Random, kinds: tuple, files: dict | None = None) -> list[dict]:
    """Of all kinds alike; in words without `files`."""
    show = Words(rng) if files is None else Images(files, rng)
    return [rng.choice(kinds)(show, rng) for _ in range(count)]


def exchanged(asked: list[dict]) -> list[dict]:
    """Each chat with the first image of the next one; its answer stays."""
    changed = copy.deepcopy(asked)
    for one, other in zip(changed, [*asked[1:], asked[0]], strict=True):
        one["messages"][0]["content"] = other["messages"][0]["content"]
    return changed


# --- the stages ------------------------------------------------------------------------------------------------------------


def see(lab: Lab, model, processor, rates: dict[str, float]) -> list[dict]:
    """Stage 1: images and their names."""
    samples = chats(32 * lab.some(700), lab.rng("see"), (naming,), lab.world["train"]["image"])
    return learn(lab, model, processor, samples, rates=rates, max_grad_norm=1.0)


class Forgetting(TrainerCallback):
    """Asks about text along the training: a curve of the share of wrong answers."""

    def __init__(self, processor, asked: list[dict], every: int):
        self.processor, self.asked, self.every, self.curve = processor, asked, every, []

    def on_step_end(self, arguments, state, control, model, **_) -> None:
        if state.global_step % self.every == 0 or state.global_step == 1:
            marks = right(self.asked, answers(model, self.processor, self.asked))
            self.curve.append({"loss": 1 - sum(marks) / len(marks)})
            model.train()


def converse(lab: Lab, folder, processor, *kinds):
    """Stage 2, from a saved stage 1: LoRA, all else frozen. Returns the merged model, its log, and what was forgotten."""
    model, steps = AutoModelForCausalLM.from_pretrained(folder), lab.some(200)
    lora = lora_config(model, r=16, lora_alpha=32, lora_dropout=0.05, modules_to_save=None)
    samples = chats(32 * steps, lab.rng("converse"), kinds, lab.world["train"]["image"])
    asked = chats(lab.some(200), lab.rng("watch"), (unrehearsed,))
    watch = Forgetting(processor, asked, max(1, steps // 10))
    model, log = adapt(lab, model, processor, samples, lora, learning_rate=RATE, trainer={"callbacks": [watch]})
    return model, log, watch.curve


def run(lab: Lab) -> Replica:
    tokenizer = make_tokenizer([chat_template(), *NUMBERS, WORDS, *OPPOSITES])
    tower = MplugOwlVisionConfig(
        image_size=32, patch_size=8, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4
    )
    abstractor = {"num_tokens": IMAGE_TOKENS, "depth": 2, "num_heads": 4, "intermediate_size": 128}
    model, processor = compose(
        **mplug_owl(small_llama(tokenizer), tokenizer, towers={"image": tower}, aligners=abstractor)
    )
    everything = (naming, naming, adding, adding, comparing, remembering, rehearsed, unrehearsed)
    samples = chats(64 * lab.some(700), lab.rng("words"), everything)
    logs = {"text": teach_text(lab, model, processor, samples)}
    blind = copy.deepcopy(model)

    rates = {"image_tower": 5e-4, "image_aligner": 1.5e-3}
    logs["see"] = see(lab, model, processor, rates)
    see(lab, blind, processor, {"image_aligner": rates["image_aligner"]})

    test = lab.world["test"]["image"]
    asked = {kind: chats(lab.some(360), lab.rng(kind.__name__), (kind,), test) for kind in dict.fromkeys(everything)}
    before = {kind: answers(model, processor, chats) for kind, chats in asked.items()}
    unseeing = answers(blind, processor, asked[naming])
    model.save_pretrained(lab.folder / "stage1")
    multimodal = (naming, adding, remembering)
    forgetful, _, logs["forgotten without text"] = converse(lab, lab.folder / "stage1", processor, *multimodal)
    model, logs["converse"], logs["forgotten with text"] = converse(
        lab, lab.folder / "stage1", processor, *multimodal, *[rehearsed] * 3
    )
    lab.keep(model, processor)

    after = {kind: answers(model, processor, chats) for kind, chats in asked.items()}
    mixed = {kind: answers(model, processor, exchanged(asked[kind])) for kind in (comparing, remembering)}
    without = {kind: answers(forgetful, processor, asked[kind]) for kind in (rehearsed, unrehearsed)}

    def claim(name: str, kind, given: list[str], control: list[str], chance: float, without: str, **more) -> Claim:
        shown = list(zip(asked[kind], given, strict=True))
        measured, beside = (right(asked[kind], said) for said in (given, control))
        return Claim(name, measured, beside, chance, without, examples=shown, **more)

    return Replica(
        [
            claim("stage 1: names digits", naming, before[naming], unseeing, 0.1, "tower frozen at random"),
            claim("two images compared", comparing, after[comparing], mixed[comparing], 0.5, "first image exchanged"),
            claim("two images compared, after stage 2", comparing, after[comparing], before[comparing], 0.5,
                  "stage 1 alone"),
            claim("first turn's image remembered", remembering, after[remembering], mixed[remembering], 0.1,
                  "first image exchanged"),
            claim("first turn's image remembered, after stage 2", remembering, after[remembering],
                  before[remembering], 0.1, "stage 1 alone"),
            claim("text not lost: rehearsed words", rehearsed, after[rehearsed], before[rehearsed], 0.02,
                  "before stage 2", margin=-0.02),
            claim("text not lost: other words", unrehearsed, after[unrehearsed], before[unrehearsed], 0.02,
                  "before stage 2", margin=-0.02),
            claim("text kept by text in the mix: rehearsed words", rehearsed, after[rehearsed], without[rehearsed],
                  0.02, "stage 2 without text"),
            claim("text kept by text in the mix: other words", unrehearsed, after[unrehearsed],
                  without[unrehearsed], 0.02, "stage 2 without text"),
        ],
        logs,
    )  # fmt: skip
