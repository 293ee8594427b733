"""X-LLM (arXiv 2305.04160): interfaces turn images and speech into a language that a frozen language model understands.

Three stages, as in section 3: each interface alone (a Q-Former behind its tower; a speech recogniser of encoder and
CIF); interfaces to the language model; all of them together, of which the adapters alone learn. The language model never
learns after it has learned from text. What is claimed, and what could have refuted it:

- Speech is recognised through CIF, which fires once for each spoken digit, after the recogniser has learned alone.
  Control: stage 1 left out, so that all of it learns in front of the language model, in stage 2's steps alone.
- An image helps to understand noisy speech (multimodal recognition): one digit is buried in noise, and a photo shows it.
  Controls: the same recordings without it, which was trained as often; with a photo of a digit that is not said. The
  language model has learned, from text, to fill a gap by a hint; transcripts of stage 1 have a mark in that place.
- In the end all modalities work together: spoken digits are related to a picture. Control: the interfaces that were
  aligned one by one, before stage 3.
"""

import copy
import itertools
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from digits_world import parts, speech
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import ParakeetEncoderConfig, ParakeetFeatureExtractor

from transformers_anymodality import compose, set_trainable
from transformers_anymodality.systems.x_llm import chat_template, x_llm

from .claims import Claim, Replica
from .lab import Lab, answers, chat, learn, make_tokenizer, right, small_llama, teach_text, wrong_characters


WRITE = "write down what is said"
WRITE_SEEN = "write down what is said , the picture shows a digit that is hard to hear"
NAME = "which digit is in the picture ?"
SAID = "is the digit in the picture among those that are said ?"
IMAGE_TOKENS, SPOKEN, WIDTH = 4, 8, 96
UNCLEAR = "~"  # what a transcript has for a digit that nobody can understand
HEARD = "0123456789" + UNCLEAR  # a recogniser's classes


# --- data ----------------------------------------------------------------------------------------------------------------


def record(folder: Path, count: int, buried: bool, seed: int) -> list[Path]:
    """Files of strings of two to five digits, each said by another speaker; names tell the digits, and which is buried."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        return list(pool.map(partial(_record, folder, buried, seed), range(count), chunksize=20))


def _record(folder: Path, buried: bool, seed: int, index: int) -> Path:
    rng = np.random.default_rng((seed, index))
    digits = rng.integers(0, 10, rng.integers(2, 6))
    place = int(rng.integers(len(digits))) if buried else None
    file = folder / f"{index:05d}_{'' if place is None else place}_{''.join(map(str, digits))}.wav"
    if not file.exists():
        soundfile.write(file, speech.say_string(digits, rng, buried=place), speech.RATE)
    return file


def shown(file: Path) -> str:
    """The digits that a file's name tells, of speech or of an image."""
    return file.stem.rpartition("_")[2]


def heard(file: Path) -> str:
    """The same of a recording, with what is buried as unclear."""
    # Files in which nothing is buried have no place, or a number of four figures.
    place, digits = file.stem.split("_")[-2:]
    return "".join(UNCLEAR if str(i) == place else digit for i, digit in enumerate(digits))


class Tasks:
    """Chats about recordings and images, as {"messages": [...]}; all but `name` ask about the recording that they take."""

    def __init__(self, images: dict, rng: random.Random):
        self.images, self.rng = images, rng

    def ask(self, question: str, answer: str, digit: str | None = None, sound: Path | None = None) -> dict:
        seen = [] if digit is None else [{"type": "image", "path": str(self.rng.choice(self.images[int(digit)]))}]
        spoken = [] if sound is None else [{"type": "audio", "path": str(sound)}]
        return chat([*seen, *spoken, {"type": "text", "text": question}], answer)

    def write(self, sound: Path) -> dict:
        return self.ask(WRITE, " ".join(shown(sound)), sound=sound)

    def write_seen(self, sound: Path, misleading: bool = False) -> dict:
        """With a picture of the digit that is buried, or of any where none is; a misleading one is of none that is said."""
        digits = shown(sound)
        lost = "".join(digit for digit, known in zip(digits, heard(sound), strict=True) if known == UNCLEAR)
        digit = self.digit(digits, among=False) if misleading else self.rng.choice(lost or digits)
        return self.ask(WRITE_SEEN, " ".join(digits), digit, sound)

    def name(self, sound: Path | None = None) -> dict:
        digit = str(self.rng.randrange(10))
        return self.ask(NAME, digit, digit)

    def said(self, sound: Path) -> dict:
        """A digit that can be heard, or none that is said."""
        among = self.rng.random() < 0.5
        digit = self.digit(heard(sound) if among else shown(sound), among)
        return self.ask(SAID, "yes" if among else "no", digit, sound)

    def digit(self, spoken: str, among: bool) -> str:
        return self.rng.choice([digit for digit in "0123456789" if (digit in spoken) == among])


class WordTasks(Tasks):
    """The same, with words in media's place: digits as often as an image has tokens, and what can be heard."""

    def __init__(self, rng: random.Random):
        super().__init__({}, rng)

    def ask(self, question: str, answer: str, digit: str | None = None, sound: Path | None = None) -> dict:
        media = "" if digit is None else f"<Image> {' '.join(digit * IMAGE_TOKENS)} </Image> "
        media += "" if sound is None else f"<Speech> {' '.join(heard(sound))} </Speech> "
        if digit is not None and sound is not None:  # the template gives such questions as they are
            return {"messages": [{"role": "system", "content": media + question}, *chat("", answer)["messages"][1:]]}
        return {"messages": [{"role": "system", "content": media}, *chat(question, answer)["messages"]]}


def mixture(tasks: Tasks, kinds: dict[str, int], sounds: list[Path], count: int) -> list[dict]:
    """`count` chats; kinds: name of a task -> weight."""
    chosen = tasks.rng.choices(list(kinds), list(kinds.values()), k=count)
    return [getattr(tasks, kind)(tasks.rng.choice(sounds)) for kind in chosen]


# --- stage 1: interfaces alone ---------------------------------------------------------------------------------------------


class SpeechAlone(nn.Module):
    """Encoder and CIF as a recogniser: what fires is classified. Three losses, as is usual for CIF (arXiv 1905.11235):
    of the digits, of how many fire, and CTC of the frames. Unclear is one of the classes."""

    def __init__(self, model):
        super().__init__()
        self.encoder, self.cif = model.audio_tower, model.audio_aligner.cif
        self.digits, self.frames = nn.Linear(WIDTH, len(HEARD)), nn.Linear(WIDTH, len(HEARD) + 1)

    def forward(self, inputs: dict, spoken: list[str]) -> torch.Tensor:
        features, lengths = inputs["input_features"], inputs["audio_feature_lengths"]
        states = self.encoder(features, attention_mask=inputs["audio_attention_mask"]).last_hidden_state
        mask = torch.arange(states.shape[1]) < lengths.unsqueeze(-1)
        counts = torch.tensor([len(digits) for digits in spoken])
        targets = [torch.tensor([HEARD.index(digit) for digit in digits]) for digits in spoken]
        fired = self.cif(states * mask.unsqueeze(-1), mask, target_lengths=counts)
        logits = self.digits(fired.last_hidden_state)
        padded = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100)[:, : logits.shape[1]]
        frames = self.frames(states).log_softmax(-1).transpose(0, 1)
        return (
            nn.functional.cross_entropy(logits[:, : padded.shape[1]].flatten(0, 1), padded.flatten())
            + (fired.quantity - counts).abs().mean()
            + nn.functional.ctc_loss(frames, torch.cat(targets), lengths, counts, blank=len(HEARD), zero_infinity=True)
        )


class ImageAlone(nn.Module):
    """Tower and Q-Former as a classifier of images, which stands for BLIP-2's first stage."""

    def __init__(self, model):
        super().__init__()
        self.read = partial(model.get_modality_features, "image", return_dict=True)
        self.digits = nn.Linear(model.config.get_text_config().hidden_size, 10)

    def forward(self, inputs: dict, seen: list[str]) -> torch.Tensor:
        tokens = self.read(**inputs).pooler_output
        return nn.functional.cross_entropy(self.digits(tokens.mean(1)), torch.tensor([int(digit) for digit in seen]))


def alone(
    lab: Lab, model, processor, learn: Sequence[str], *plan: tuple[list[Path], int], rate: float = 2e-3
) -> list[dict]:
    """Trains the interface of a modality without a language model. Returns a log like Trainer's.

    Args:
        learn: names of the parts that do, for `set_trainable`.
        plan: files and steps, one after another.
    """
    modality, steps = learn[0].partition("_")[0], sum(count for _, count in plan)
    set_trainable(model, list(learn), verbose=False)
    model.train()
    interface = {"audio": SpeechAlone, "image": ImageAlone}[modality](model)
    learning = [p for p in {*model.parameters(), *interface.parameters()} if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    losses = []
    for inputs, digits in tqdm(_batches(lab, processor, modality, plan), f"{modality} alone", steps, leave=False):
        loss = interface(inputs, digits)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    return [{"step": i, "loss": sum(losses[i : i + 20]) / len(losses[i : i + 20])} for i in range(0, steps, 20)]


def _batches(
    lab: Lab, processor, modality: str, plan: Sequence[tuple[list[Path], int]]
) -> Iterator[tuple[dict, list[str]]]:
    """Batches of the files, each of which is read once."""
    for files, steps in plan:
        mixed = lab.rng(f"{modality} alone").sample(files, len(files))
        batches = list(DataLoader(mixed, 32, num_workers=2, collate_fn=partial(_read, processor, modality)))
        yield from itertools.islice(itertools.cycle(batches), steps)


def _read(processor, modality: str, files: list[Path]) -> tuple[dict, list[str]]:
    inputs, _ = processor.process_media({modality: [str(file) for file in files]})
    return inputs, [heard(file) for file in files]


# --- the replica -----------------------------------------------------------------------------------------------------------


def make_model(lab: Lab, tokenizer):
    """The preset with small parts. The image tower is a classifier, frozen; the speech encoder, of convolutions and
    conformer layers as the paper's, has yet to learn."""
    image_tower, _ = parts.train_tower("image", lab.world["train"]["image"], lab.some(400), lab.seed)
    encoder = ParakeetEncoderConfig(
        num_mel_bins=40, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=2 * WIDTH,
        subsampling_factor=8, subsampling_conv_channels=16, layerdrop=0.0,
        initializer_range=0.15,  # of 0.02, as published, nothing passes so small convolutions
    )  # fmt: skip
    sizes = {"depth": 2, "num_heads": 4, "intermediate_size": 128}
    queries = {"num_tokens": IMAGE_TOKENS, "qformer_hidden_size": 64}
    tokens = {"num_tokens": SPOKEN, "token_size": WIDTH, "bert_hidden_size": 64, "max_positions": SPOKEN}
    towers = {
        "image": {"tower": image_tower, "processor": parts.image_processor()},
        "audio": {"tower": encoder, "processor": ParakeetFeatureExtractor(feature_size=40)},
    }
    aligners = {"image": {**sizes, **queries}, "speech": {**sizes, **tokens}}
    return compose(**x_llm(small_llama(tokenizer), tokenizer, towers=towers, aligners=aligners))


def stage_2(lab: Lab, model, processor, sounds: list[Path], *learning: str) -> list[dict]:
    """Speech in front of the language model, beside an image or not."""
    tasks = Tasks(lab.world["train"]["image"], lab.rng("stage 2"))
    chats = mixture(tasks, {"write": 1, "write_seen": 1}, sounds, 32 * lab.some(300))
    return learn(lab, model, processor, chats, *learning, learning_rate=2e-3, max_grad_norm=1.0)


def stage_3(lab: Lab, model, processor, sounds: list[Path]) -> list[dict]:
    """All modalities together; adapters alone learn, which are the projections and the Q-Former's queries."""
    tasks = Tasks(lab.world["train"]["image"], lab.rng("stage 3"))
    chats = mixture(tasks, {"write": 2, "write_seen": 2, "name": 1, "said": 2}, sounds, 32 * lab.some(200))
    adapters = ("image_aligner.projection", "image_aligner.queries", "audio_aligner.projection")
    return learn(lab, model, processor, chats, *adapters, learning_rate=2e-3, max_grad_norm=1.0)


def run(lab: Lab) -> Replica:
    count, shared = lab.some(2000, least=40), lab.shared
    sounds = record(shared / "train", count, False, 0) + record(shared / "train_buried", count, True, 1)
    clean = record(lab.folder / "test", lab.some(360), False, 2 + 2 * lab.seed)
    buried = record(lab.folder / "test_buried", lab.some(360), True, 3 + 2 * lab.seed)
    tokenizer = make_tokenizer(
        [chat_template(), WRITE, WRITE_SEEN, NAME, SAID, "yes no", UNCLEAR, "0123456789", "< > </ <Image> <Speech>"]
    )
    model, processor = make_model(lab, tokenizer)
    everything = {"write": 2, "write_seen": 4, "name": 1, "said": 4}
    chats = mixture(WordTasks(lab.rng("words")), everything, sounds, 64 * lab.some(700))
    logs = {"text": teach_text(lab, model, processor, chats)}

    images, words = (
        [file for files in lab.world["train"][kind].values() for file in files] for kind in ("image", "audio")
    )
    logs["image alone"] = alone(lab, model, processor, ["image_aligner"], (images, lab.some(250)))
    chats = mixture(Tasks(lab.world["train"]["image"], lab.rng("names")), {"name": 1}, sounds, 32 * lab.some(150))
    logs["image to language"] = learn(lab, model, processor, chats, "image_aligner", learning_rate=2e-3)

    unprepared, speech = copy.deepcopy(model), ("audio_tower", "audio_aligner.cif")
    logs["speech alone"] = alone(
        lab, model, processor, speech,
        (words, lab.some(100)),  # single digits are easier
        (sounds, lab.some(700)), rate=4e-3,
    )  # fmt: skip
    behind = ("audio_aligner.bert_projection", "audio_aligner.bert", "audio_aligner.projection")
    logs["speech to language"] = stage_2(lab, model, processor, sounds, *behind)
    stage_2(lab, unprepared, processor, sounds, *speech, *behind)

    def asked(kind: str, sounds: list[Path], **more) -> list[dict]:
        tasks = Tasks(lab.world["test"]["image"], lab.rng(kind))
        return [getattr(tasks, kind)(sound, **more) for sound in sounds]

    def say(model, chats: list[dict]) -> list[str]:
        return answers(model, processor, chats, max_new_tokens=8)

    written, related = asked("write", clean), asked("said", clean)
    by_cif, at_once, before = say(model, written), say(unprepared, written), say(model, related)
    logs["together"] = stage_3(lab, model, processor, sounds)
    lab.keep(model, processor)

    seen, after = asked("write_seen", buried), say(model, related)
    with_image = say(model, seen)
    without, misled = (
        wrong_characters(seen, say(model, each))
        for each in (asked("write", buried), asked("write_seen", buried, misleading=True))
    )

    def of_another(chats: list[dict]) -> list[tuple[int, int]]:
        """Digits of another recording."""
        return wrong_characters(chats, [one["messages"][-1]["content"] for one in [*chats[1:], chats[0]]])

    def errors(name: str, chats: list[dict], given: list[str], control: list[tuple[int, int]], without: str) -> Claim:
        shown = list(zip(chats, given, strict=True))
        measured = wrong_characters(chats, given)
        return Claim(
            f"characters wrong, {name}", measured, control, of_another(chats), without, "lower", examples=shown
        )

    return Replica(
        [
            errors("speech by CIF", written, by_cif, wrong_characters(written, at_once), "stage 1 left out"),
            errors("one digit in noise, shown by an image", seen, with_image, without, "no image"),
            errors("the same, beside a misleading image", seen, with_image, misled, "image of another digit"),
            Claim("image related to speech, after stage 3", right(related, after), right(related, before), 0.5,
                  "before stage 3", examples=list(zip(related, after, strict=True))),
        ],
        logs,
    )  # fmt: skip
