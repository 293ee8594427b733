"""CIDEr-D, BLEU and ROUGE-L of captions, as COCO's evaluation computes them, on its tokens.

Its tokens are Penn Treebank's, lower-cased, without some punctuation. COCO's code runs Stanford's PTBTokenizer (CoreNLP
3.4.1, `-preserveLines -lowerCase`) in Java, then removes the tokens in a list. `tokens` gives the same for the content of
captions: words, numbers, contractions, brackets, quotes, common abbreviations. It covers less of Stanford's long lists of
abbreviations and emoticons.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..utils.imports import require
from .scores import Score, register_score


# Split in two, although there is no apostrophe.
_SPLIT = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "lemme": "lem me",
    "gimme": "gim me",
    "wanna": "wan na",
    "'tis": "'t is",
    "'twas": "'t was",
    "y'all": "y' all",
}
# Stanford's names for brackets and currencies. COCO's list has the brackets in capitals, so lower-case ones stay.
_NAMES = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", "£": "#", "€": "$"}
_REMOVED = {"''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";"}
_ABBREVIATIONS = (
    "mr mrs ms dr prof st jr sr vs etc inc ltd co corp mt ave gen sgt capt lt rev jan feb aug sept oct nov dec"
).split()
_CLITIC = r"'(?:s|re|ve|ll|d|m)(?!\w)"
_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)[^\s"<>|]*[^\s"<>|.,;:!?)]
    | [\w.+-]+@\w[\w-]*(?:\.\w+)+                                   # e-mail
    | (?:[^\W\d_]\.){{2,}}(?!\w)                                     # u.s.
    | (?:{"|".join(_ABBREVIATIONS)})\.(?!\w) | no\.(?=\s*\d)
    | n't(?!\w) | {_CLITIC} | 'n'(?!\w) | '\d\ds(?!\w) | '(?:tis|twas)(?!\w) | y'all(?!\w)
    | \d+:\d\d(?!\d)                                                # 10:45
    | (?<![\w.])[-+]\d[\d.,]*(?<![.,])(?!\w)                          # -5
    | (?<!\w)\.\d+                                                  # .5
    | [#@][^\W\d_]\w*
    | (?:[odl]'(?=\w\w))?\w(?:\w|[-/.&](?=\w)|(?<=\d),(?=\d))*         # words and numbers
    | \.{{2,}} | -{{2,}} | [?!]+ | \S
    """,
    re.VERBOSE,
)


def tokens(caption: str) -> list[str]:
    """The words of a caption."""
    text = re.sub("[\u2018\u2019]", "'", caption.lower())
    text = re.sub("[\u201c\u201d]", '"', re.sub("[\u2013\u2014]", " -- ", text))
    text = re.sub(r"(?<=\w)'n'(?=\w)", " 'n' ", text)
    text = re.sub(rf"(?<=\w)(n't(?!\w)|{_CLITIC})", r" \1", text)
    text = re.sub(rf"(?<=n't)({_CLITIC})", r" \1", text)
    found = [_NAMES.get(token, _SPLIT.get(token, token)) for token in _TOKEN.findall(text)]
    words = (word for token in found for word in token.split())
    return [word for word in words if word not in _REMOVED and set(word) not in ({"."}, {"-"})]


# --- scores ----------------------------------------------------------------------------------------------------------


@register_score("cider")
class Cider(Score):
    """CIDEr-D (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726, section 4 and appendix): 0 to 10; papers print 1.0
    as 100.

    Cosines of TF-IDF vectors of 1- to 4-grams, averaged over n and over references. Counts are clipped to those of the
    reference, a Gaussian of deviation 6 penalises a difference in length, and the result is multiplied by 10. IDF comes
    from the given references: scores of different sets of samples cannot be compared, and one sample alone scores 0.
    """

    max_n, sigma = 4, 6.0

    def rows(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
        said = [_grams(tokens(one), self.max_n) for one in predictions]
        wanted = [[_grams(tokens(one), self.max_n) for one in several] for several in references]
        documents = Counter(gram for several in wanted for gram in set().union(*several))
        log_count = np.log(len(wanted))
        idf = {gram: log_count - np.log(count) for gram, count in documents.items()}
        scores = [
            np.mean([self._similarity(one, other, idf, log_count) for other in several])
            for one, several in zip(said, wanted, strict=True)
        ]
        return 10 * np.asarray(scores, dtype=np.float64)[:, None]

    def _similarity(self, said: Counter, wanted: Counter, idf: dict[tuple[str, ...], float], unknown: float) -> float:
        found = 0.0
        for n in range(1, self.max_n + 1):
            ours, theirs = (
                {gram: count * idf.get(gram, unknown) for gram, count in counts.items() if len(gram) == n}
                for counts in (said, wanted)
            )
            dot = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs)
            norm = _norm(ours.values()) * _norm(theirs.values())
            found += dot / norm if norm else 0.0
        # COCO's code uses the number of bigrams as the length.
        delta = _bigrams(said) - _bigrams(wanted)
        return found / self.max_n * float(np.exp(-(delta**2) / (2 * self.sigma**2)))


def _grams(words: list[str], max_n: int) -> Counter:
    return Counter(tuple(words[i : i + n]) for n in range(1, max_n + 1) for i in range(len(words) - n + 1))


def _norm(weights: Iterable[float]) -> float:
    return float(np.sqrt(sum(weight**2 for weight in weights)))


def _bigrams(counts: Counter) -> int:
    return sum(count for gram, count in counts.items() if len(gram) == 2)


@register_score("bleu")
class Bleu(Score):
    """BLEU-1 to BLEU-4 of the corpus (Papineni et al. 2002), by sacrebleu, on COCO's tokens, unsmoothed, with the closest
    reference's length for the brevity penalty; 0 to 100."""

    max_n = 4

    @cached_property
    def _bleu(self) -> Any:
        return require("sacrebleu.metrics", "eval").BLEU(tokenize="none", smooth_method="none", effective_order=True)

    def row(self, prediction: str, references: Sequence[str]) -> Sequence[float]:
        """Matched n-grams by n, all n-grams by n, its length, the closest reference's length."""
        found = self._bleu.sentence_score(" ".join(tokens(prediction)), [" ".join(tokens(one)) for one in references])
        return *found.counts, *found.totals, found.sys_len, found.ref_len

    def total(self, rows: np.ndarray) -> dict[str, float]:
        sums = rows.sum(axis=0).astype(int).tolist()
        matched, counted, lengths = sums[: self.max_n], sums[self.max_n : -2], sums[-2:]
        found = {}
        for n in range(1, self.max_n + 1):
            score = self._bleu.compute_bleu(
                matched[:n], counted[:n], *lengths, smooth_method="none", max_ngram_order=n
            )
            found[f"bleu{n}"] = float(score.score)
        return {"bleu": found[f"bleu{self.max_n}"], **found}


@register_score("rouge_l")
class RougeL(Score):
    """ROUGE-L as in COCO's evaluation: F-measure with beta 1.2 of the best precision and the best recall over the
    references, by the longest common subsequence (Lin 2004); 0 to 1."""

    beta = 1.2

    def row(self, prediction: str, references: Sequence[str]) -> Sequence[float]:
        common = require("rapidfuzz.distance", "eval").LCSseq.similarity
        ours, wanted = tokens(prediction), [tokens(one) for one in references]
        longest = [common(ours, theirs) for theirs in wanted]
        precision = max(longest) / max(len(ours), 1)
        recall = max(found / max(len(theirs), 1) for found, theirs in zip(longest, wanted, strict=True))
        weighted = recall + self.beta**2 * precision
        return [(1 + self.beta**2) * precision * recall / weighted if weighted else 0.0]
