"""Scores: equal to the official code's on captions, to hand-computed values elsewhere; and as modules of `evaluate`."""

import math

import numpy as np
import pytest

from transformers_anymodality.evaluation import METRIC, SCORES
from transformers_anymodality.evaluation.captions import tokens
from transformers_anymodality.evaluation.comparing import _summary
from transformers_anymodality.evaluation.scores import normalize_answer


pytest.importorskip("sacrebleu")
pytest.importorskip("rapidfuzz")

# What Stanford's PTBTokenizer (CoreNLP 3.4.1, as pycocoevalcap runs it) makes of captions.
TOKENS = {
    "A man riding a wave on top of a surfboard.": "a man riding a wave on top of a surfboard",
    "Two dogs don't play; they're sleeping on the couch.": "two dogs do n't play they 're sleeping on the couch",
    'A woman\'s hand holding a cell-phone (black) in front of a "stop" sign!': (
        "a woman 's hand holding a cell-phone -lrb- black -rrb- in front of a stop sign"
    ),
    "The clock reads 10:45 a.m. on a sunny day...": "the clock reads 10:45 a.m. on a sunny day",
    'a t-shirt that says "I ♥ NY" & has a $5.99 price-tag': "a t-shirt that says i ♥ ny & has a $ 5.99 price-tag",
    "The bus number 1,234 is at the U.S. embassy.": "the bus number 1,234 is at the u.s. embassy",
    "He cannot see; I'm gonna go, we've wanna-be stars": "he can not see i 'm gon na go we 've wanna-be stars",
    "A dog/cat hybrid and/or fox -- it is unclear": "a dog/cat hybrid and/or fox it is unclear",
    "An airplane with 50% off sale, #1 in class": "an airplane with 50 % off sale # 1 in class",
    "the dogs' toys are in the kids' room": "the dogs toys are in the kids room",
    "Mr. Smith and Dr. Jones stand near St. Mary's church.": "mr. smith and dr. jones stand near st. mary 's church",
    "It's the 1990's; the 80s' style isn't in.": "it 's the 1990 's the 80s style is n't in",
    "rock 'n' roll band, o'clock at 5 o'clock": "rock 'n' roll band o'clock at 5 o'clock",
    "wait: what? really!? yes.": "wait what really !? yes",
    "couldn't've won't can't shan't": "could n't 've wo n't ca n't sha n't",
    "half–dash and em—dash words": "half dash and em dash words",
    "“curly quotes” and ‘single’ it’s": "curly quotes and single it 's",
    "snow-covered ski slope, -5 degrees, +3 points": "snow-covered ski slope -5 degrees +3 points",
    "y'all d'you 'twas 'tis": "y' all d'you 't was 't is",
    "A child holding an umbrella.A dog next to it.": "a child holding an umbrella.a dog next to it",
    "a kid,a dog,and a cat": "a kid a dog and a cat",
    "Hello;world a:b 12:30pm 5pm 5 p.m. 5ft. 6'2\"": "hello world a b 12:30 pm 5pm 5 p.m. 5ft 6 2",
    "the 60's and the '70s and 1980s": "the 60 's and the '70s and 1980s",
    "A U.S.A. flag. The end.": "a u.s.a. flag the end",
    "": "",
    " ... ": "",
}


@pytest.mark.parametrize("caption", TOKENS)
def test_tokens_are_the_official_ones(caption):
    assert tokens(caption) == TOKENS[caption].split()


SAID = [
    "A man riding a wave on top of a surfboard.",
    "Two dogs don't play; they're asleep on the couch.",
    "A woman's hand holds a cell-phone",
    "a red double-decker bus drives down the street",
    "There are some people at a table.",
]
WANTED = [
    [
        "A man rides a wave on a surfboard.",
        "A surfer riding on top of a large wave in the ocean.",
        "a man on a surfboard riding a wave",
    ],
    ["Two dogs are sleeping on the couch.", "The dogs aren't playing, they're asleep on a couch!"],
    [
        "A person's hand holding a black cell-phone.",
        "a woman is holding up a cell phone (black)",
        "The woman's hand holds a phone.",
    ],
    [
        "A red double-decker bus on a city street.",
        "A double-decker bus driving down the street, in London.",
    ],
    [
        "A group of people sitting at a table with food.",
        "Several people eat dinner at a table.",
        "People are sitting around a table.",
    ],
]


def test_caption_scores_are_the_official_ones():
    """The numbers are pycocoevalcap 1.2's, with its Java tokenizer, for these captions."""
    cider = SCORES["cider"].rows(SAID, WANTED)[:, 0]
    assert np.allclose(cider, [3.24107728, 2.7829533, 2.90018153, 3.62914123, 2.10463702], atol=1e-8)
    rouge = SCORES["rouge_l"].rows(SAID, WANTED)[:, 0]
    assert np.allclose(rouge, [0.7936803, 0.68015291, 0.71428571, 0.69847328, 0.57142857], atol=1e-8)
    bleu = SCORES["bleu"](SAID, WANTED)
    expected = [88.37209302120066, 77.75931859016797, 63.53889572570328, 46.26288797888219]
    assert np.allclose([bleu[f"bleu{n}"] for n in (1, 2, 3, 4)], expected, atol=1e-6) and bleu["bleu"] == bleu["bleu4"]


def test_empty_captions_score_nothing():
    said = ["", "..."] + SAID[2:]
    assert SCORES["cider"].rows(said, WANTED)[:2].tolist() == [[0], [0]]
    assert SCORES["rouge_l"].rows(said, WANTED)[:2].tolist() == [[0], [0]]
    assert 0 < SCORES["bleu"](said, WANTED)["bleu"] < SCORES["bleu"](SAID, WANTED)["bleu"]
    assert SCORES["bleu"]([""], [["a dog"]])["bleu"] == 0


ANSWERS = {
    "The dog.": "dog",
    "Two": "2",
    "none": "0",
    "dont know": "don't know",
    "shed've": "she'd've",
    "somebody'd": "somebodyd",
    "yall'd've": "y'all'd've",
    "red/blue": "red blue",
    "red, blue": "red blue",
    "10,000": "10000",
    "3.5": "3.5",
    "it's 5:30?": "it's 5:30",
    "a\nb\tan apple": "b apple",
    "t-shirt": "t shirt",
    "yes!": "yes",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_are_normalized_as_officially(answer):
    assert normalize_answer(answer) == ANSWERS[answer]


@pytest.mark.parametrize(
    "agreeing, expected", [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)], ids=lambda value: str(value)
)
def test_vqa_accuracy_over_subsets_of_nine(agreeing, expected):
    """Of k who agree, k subsets leave one of them out: (k * min((k - 1) / 3, 1) + (10 - k) * min(k / 3, 1)) / 10."""
    people = ["two"] * agreeing + ["a cat", "cats", "dog", "bird", "cow", "pig", "fox", "hen", "ox", "ape"]
    assert math.isclose(SCORES["vqa_accuracy"](["2"], [people[:10]])["vqa_accuracy"], expected)


def test_vqa_accuracy_with_a_single_answer():
    assert SCORES["vqa_accuracy"](["The Dog", "cat"], [["dog"], ["dog"]]) == {"vqa_accuracy": 0.5}


def test_error_rates():
    """One substitution and one insertion in six words; in characters, 'sat' to 'sit' and 'a' more in 22."""
    said, wanted = ["the cat sit on a the mat!"], [["The cat sat, on the mat."]]
    assert math.isclose(SCORES["wer"](said, wanted)["wer"], 2 / 6)
    assert math.isclose(SCORES["cer"](said, wanted)["cer"], 2 / 17)
    assert math.isclose(SCORES["cer"](["今天天汽 好"], [["今天天气好。"]])["cer"], 1 / 5)
    # Of a corpus: edits over words, not the mean of rates.
    assert math.isclose(SCORES["wer"](["", "b c d"], [["a"], ["b c d"]])["wer"], 1 / 4)
    with pytest.raises(ValueError, match="sample 1 has a reference without words: '...'"):
        SCORES["wer"](["a", "b"], [["a"], ["..."]])


def test_auc():
    """By hand: of four pairs, (.9, .5) and (.9, .2) are in order, (.4, .5) is not, (.4, .2) is; a tie counts one half."""
    wanted = [["Yes"], ["No"], ["Yes"], ["No"]]
    assert SCORES["auc"]([0.9, 0.5, 0.4, 0.2], wanted) == {"auc": 0.75}
    assert SCORES["auc"]([0.9, 0.5, 0.5, 0.2], wanted) == {"auc": 0.875}
    assert math.isnan(SCORES["auc"]([0.9], [["Yes"]])["auc"])
    with pytest.raises(ValueError, match="sample 0 has the reference 'maybe'"):
        SCORES["auc"]([0.9], [["maybe"]])


def test_auc_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p, truth = rng.integers(0, 20, 200) / 20, rng.integers(0, 2, 200)
    ours = SCORES["auc"](p.tolist(), [["Yes" if one else "No"] for one in truth])["auc"]
    assert math.isclose(ours, metrics.roc_auc_score(truth, p))


def test_ratings():
    found = SCORES["owl_rating"](["A", "B", "B", "D"], [[]] * 4)
    assert found == {"owl_rating": 0.75, "owl_rating_a": 1, "owl_rating_b": 2, "owl_rating_c": 0, "owl_rating_d": 1}
    with pytest.raises(ValueError, match="rated 'E'"):
        SCORES["owl_rating"](["E"], [[]])
    # X-LLM's published review: 67.7 against 80.1 is 84.5 %.
    relative = SCORES["relative_score"]([[8.01, 6.77]] * 3, [[]] * 3)
    assert round(relative["relative_score"], 1) == 84.5


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match="cider: 1 predictions, but 2 lists"):
        SCORES["cider"](["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="cider: there are no samples"):
        SCORES["cider"]([], [])
    with pytest.raises(ValueError, match="sample 1 must have a non-empty list of references, not 'b'"):
        SCORES["accuracy"](["a", "b"], [["a"], "b"])
    with pytest.raises(ValueError, match="Did you mean 'cider'"):
        SCORES["cidr"]


def test_bootstrap_summary():
    low, high, p = _summary([float(i) for i in range(-10, 91)])
    assert (low, high) == (-7.5, 87.5) and math.isclose(p, 2 * 11 / 101)
    assert _summary([0.0, 0.0]) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("name", list(SCORES))
def test_modules_of_evaluate(name, tmp_path):
    """They load from the package, offline, and give what the score gives."""
    evaluate = pytest.importorskip("evaluate")
    predictions, references = {
        "string": (SAID, WANTED),
        "float": ([0.9, 0.5, 0.4], [["Yes"], ["No"], ["Yes"]]),
        "pair": ([[8.0, 6.0]], [[]]),
    }[SCORES[name].prediction]
    if name == "owl_rating":
        predictions, references = ["A", "D"], [[], []]
    module = evaluate.load(METRIC, name, cache_dir=str(tmp_path))
    assert module.compute(predictions=predictions, references=references) == SCORES[name](predictions, references)
    assert module.description
