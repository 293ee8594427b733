"""Scores: numbers per sample, and their total. Scores of answers are here, scores of captions in `captions`.

The two steps are separate, so that resampled samples can be scored again: the bootstrap needs no other code per metric.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from ..utils.imports import require
from ..utils.registry import LazyRegistry
from ..utils.upstream import BasicTextNormalizer


class Score:
    """Base of all scores; the registered name is the name of its main number. Each docstring gives the definition, the
    range and the publication.

    Attributes:
        prediction: type of a prediction: "string", "float" for a probability, "pair" for two scores.
        needs_references: whether a sample without references is an error.
    """

    name = ""
    prediction = "string"
    needs_references = True

    def rows(self, predictions: Sequence[Any], references: Sequence[Sequence[str]]) -> np.ndarray:
        """`(samples, numbers)` float64, for as many predictions as lists of references."""
        rows = []
        for i, (prediction, several) in enumerate(zip(predictions, references, strict=True)):
            try:
                rows.append(self.row(prediction, several))
            except ValueError as error:
                raise ValueError(f"{self.name}: sample {i} {error}") from None
        return np.asarray(rows, dtype=np.float64)

    def row(self, prediction: Any, references: Sequence[str]) -> Sequence[float]:
        """The numbers of a sample. The message of a ValueError continues the sample's name."""
        raise NotImplementedError

    def total(self, rows: np.ndarray) -> dict[str, float]:
        """The score of samples with these rows, by name; the mean by default."""
        return {self.name: float(rows[:, 0].mean())}

    def __call__(self, predictions: Sequence[Any], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """The score of all samples.

        Raises:
            ValueError: no samples, not one list of references per prediction, or a sample without references.
        """
        return self.total(self.checked_rows(predictions, references))

    def checked_rows(self, predictions: Sequence[Any], references: Sequence[Sequence[str]]) -> np.ndarray:
        if len(predictions) != len(references):
            raise ValueError(
                f"{self.name}: {len(predictions)} predictions, but {len(references)} lists of references."
            )
        if not len(predictions):
            raise ValueError(f"{self.name}: there are no samples to score.")
        for i, several in enumerate(references if self.needs_references else ()):
            if isinstance(several, str) or not len(several):
                raise ValueError(f"{self.name}: sample {i} must have a non-empty list of references, not {several!r}.")
        return self.rows(predictions, references)


S = TypeVar("S", bound=Score)
SCORES: LazyRegistry[Score] = LazyRegistry("score")


def register_score(name: str) -> Callable[[type[S]], type[S]]:
    """Class decorator: registers a score under a name."""

    def register(cls: type[S]) -> type[S]:
        cls.name = name
        SCORES.register(name, cls())
        return cls

    return register


# --- short answers ---------------------------------------------------------------------------------------------------

_WORDS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()
# A word with a missing apostrophe -> the word; plus an error in the official table.
_CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word for word in _WORDS for i, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}
_DIGITS = dict(zip("none zero one two three four five six seven eight nine ten".split(), [0, *range(11)], strict=True))
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def normalize_answer(answer: str) -> str:
    """An answer as the official VQA evaluation compares it (https://visualqa.org/evaluation.html): lower case, without
    articles, number words as digits, missing apostrophes added, punctuation (all but apostrophe and colon) removed or
    replaced by a space. The official regular expression should keep the dots of decimals, but keeps any dot before a
    digit; so does this one."""
    given = re.sub(r"[\n\t]", " ", answer).strip()
    text, has_thousands = given, re.search(r"\d,\d", given) is not None
    for sign in _PUNCTUATION:
        at_edge = f"{sign} " in given or f" {sign}" in given
        text = text.replace(sign, "" if at_edge or has_thousands else " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = (str(_DIGITS.get(word, word)) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


@register_score("vqa_accuracy")
class VqaAccuracy(Score):
    """VQA accuracy, 0 to 1 (Antol et al. 2015, https://arxiv.org/abs/1505.00468): `min(agreeing people / 3, 1)`, averaged
    over all subsets that leave one person out; both answers and references are normalised.

    With fewer than three answers (OK-VQA, or your own data with one), a match counts in full:
    `min(agreeing / min(3, people), 1)`, without leaving a person out.
    """

    def row(self, prediction: str, references: Sequence[str]) -> Sequence[float]:
        said = normalize_answer(prediction)
        agrees = [normalize_answer(one) == said for one in references]
        if len(agrees) < 3:
            return [any(agrees)]
        return [np.mean([min(1.0, (sum(agrees) - one) / 3) for one in agrees])]


@register_score("accuracy")
class Accuracy(Score):
    """The share of predictions that equal one of their references exactly, 0 to 1."""

    def row(self, prediction: str, references: Sequence[str]) -> Sequence[float]:
        return [prediction in references]


@register_score("auc")
class Auc(Score):
    """Area under the ROC curve, 0 to 1: the chance that a sample whose reference is "Yes" has a higher probability than one
    whose reference is "No" (Mann and Whitney's U; ties count one half)."""

    prediction = "float"

    def row(self, prediction: float, references: Sequence[str]) -> Sequence[float]:
        """The probability, and whether "Yes" is right."""
        if references[0].lower() not in ("yes", "no"):
            raise ValueError(f"has the reference {references[0]!r}, expected Yes or No.")
        return prediction, references[0].lower() == "yes"

    def total(self, rows: np.ndarray) -> dict[str, float]:
        positive, negative = rows[rows[:, 1] == 1, 0], np.sort(rows[rows[:, 1] == 0, 0])
        if not len(positive) or not len(negative):
            return {"auc": float("nan")}  # not defined
        below = np.searchsorted(negative, positive, side="left")
        not_above = np.searchsorted(negative, positive, side="right")
        return {"auc": float((below + not_above).mean() / 2 / len(negative))}


# --- transcripts -----------------------------------------------------------------------------------------------------

_plain = BasicTextNormalizer()


@register_score("wer")
class Wer(Score):
    """Word error rate, 0 is best: edits over the reference's words, both summed over the corpus. Texts are compared as
    usual for languages other than English: lower case, without punctuation, symbols or text in brackets."""

    def units(self, words: list[str]) -> Sequence[str]:
        """The counted units."""
        return words

    def row(self, prediction: str, references: Sequence[str]) -> Sequence[float]:
        """Edits, and the length of the first reference."""
        wanted = self.units(_plain(references[0]).split())
        if not wanted:
            raise ValueError(f"has a reference without words: {references[0]!r}.")
        edits = require("rapidfuzz.distance", "eval").Levenshtein.distance
        return edits(wanted, self.units(_plain(prediction).split())), len(wanted)

    def total(self, rows: np.ndarray) -> dict[str, float]:
        edits, length = rows.sum(axis=0)
        return {self.name: float(edits / length)}


@register_score("cer")
class Cer(Wer):
    """Character error rate: as `wer`, over characters without spaces (needed for Chinese)."""

    def units(self, words: list[str]) -> Sequence[str]:
        return "".join(words)
