"""Texts for synthetic voices to say: common words in plain sentences, numbers, letters, and captions for training."""

from collections.abc import Sequence

import numpy as np

from .recordings import DAYS, LARGE, MONTHS, NUMBERS, PHONETIC
from .splits import normalised


_WHO = (
    "the boy,the girl,my mother,my father,our teacher,the doctor,a farmer,the driver,an old man,a young woman,the children,"
    "my friend,the baker,the captain,a nurse,the painter,your brother,her sister,the king,a tall man,the cat,the dog,"
    "a small bird,the horse,the neighbour,a student,the cook,the queen,that lady,everyone"
).split(",")
_DOES = (
    "found,lost,bought,sold,saw,carried,painted,opened,closed,cleaned,liked,wanted,dropped,took,kept,made,forgot,"
    "remembered,brought,moved,counted,washed,fixed,broke,hid,showed,needed,watched,touched,followed"
).split(",")
_WHAT = (
    "a red ball,the old car,two green apples,a glass of water,the big house,some bread and butter,a blue coat,"
    "the last letter,a wooden chair,three yellow flowers,the small boat,a heavy box,the new phone,a cup of tea,"
    "the white fence,a loud drum,the broken clock,a bag of sugar,the front door,four silver coins,a long rope,"
    "the kitchen table,a warm hat,the black dog,a bright lamp,five eggs,the old bicycle,a sharp knife,"
    "the garden gate,a paper plane,a brown horse,the piano,a map,the window,a pair of shoes,the train ticket,"
    "a sweet orange,the empty bottle,a round stone,the picture on the wall"
).split(",")
_WHERE = (
    "in the garden,at school,near the river,behind the church,on the hill,under the bridge,at the station,in the kitchen,"
    "by the sea,across the street,in the forest,at the market,next to the bank,on the farm,in the morning,after lunch,"
    "before dinner,last night,every day,at noon,on the way home,during the storm,in the snow,without a word,with a smile"
).split(",")
_FRAMES = (
    "{who} {does} {what} {where}.",
    "{who} {does} {what}.",
    "Did you see {what} {where}?",
    "There is {what} {where}.",
    "{who} said that it was {what}.",
    "Please put {what} down, it is late.",
    "I think {who} {does} {what}.",
    "We will meet on {day} {where}.",
    "It is the {number} of {month}.",
    "On {day}, {who} {does} {what}.",
    "They have {number} more {where}.",
    "Where is {what} that {who} {does}?",
    "This is a picture of {what}.",
    "She came back in {month} with {what}.",
)


def _sentence(rng: np.random.Generator) -> str:
    pick = {"who": _WHO, "does": _DOES, "what": _WHAT, "where": _WHERE, "day": DAYS, "month": MONTHS}
    words = {name: str(rng.choice(choice)) for name, choice in pick.items()}
    text = str(rng.choice(_FRAMES)).format(number=_number(rng), **words)
    return text[0].upper() + text[1:]


def _number(rng: np.random.Generator) -> str:
    tens, ones = int(rng.choice(range(20, 100, 10))), int(rng.integers(1, 10))
    forms = (NUMBERS[int(rng.integers(0, 20))], NUMBERS[tens], f"{NUMBERS[tens]} {NUMBERS[ones]}")
    whole = str(rng.choice(forms))
    return whole if rng.random() < 0.8 else f"{NUMBERS[ones]} {rng.choice(LARGE)} {whole}"


def _some(rng: np.random.Generator, words: Sequence[str]) -> str:
    """One to five of the words."""
    return " ".join(rng.choice(words, size=int(rng.choice([1, 1, 1, 2, 3, 4, 5]))).tolist())


def texts(count: int, captions: Sequence[str] = (), avoid: Sequence[str] = (), seed: int = 0) -> list[tuple[str, str]]:
    """`count` pairs of kind and text, in a shuffled order: captions (each once, at most two fifths of all), sentences, and
    numbers, digits, letters and words of the phonetic alphabet.

    Args:
        captions: of the training split.
        avoid: captions of the other splits; texts must not contain them.
    """
    rng, refused = np.random.default_rng(seed), {normalised(text) for text in avoid}
    letters = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
    digits = [NUMBERS[i] for i in range(10)]
    makers = {
        "sentence": lambda: _sentence(rng),
        "number": lambda: _number(rng),
        "digits": lambda: _some(rng, digits),
        "letters": lambda: _some(rng, letters),
        "phonetic": lambda: _some(rng, [*PHONETIC, "niner"]),
        "date": lambda: _some(rng, [*DAYS, *MONTHS, "today", "tomorrow", "yesterday"]),
    }
    own = [text for text in dict.fromkeys(captions) if normalised(text) not in refused][: count * 2 // 5]
    result = [("caption", text) for text in own]
    while len(result) < count:
        kind = str(rng.choice(list(makers), p=[0.6, 0.1, 0.1, 0.1, 0.06, 0.04]))
        text = makers[kind]()
        if (
            not any(f" {part} " in f" {normalised(text)} " for part in refused if " " in part)
            and normalised(text) not in refused
        ):
            result.append((kind, text))
    return [result[i] for i in rng.permutation(count)]
