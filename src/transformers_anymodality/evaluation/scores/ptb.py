"""The tokens of captions, as COCO's evaluation has them: Penn Treebank's, lower-cased, without some punctuation.

COCO's code runs Stanford's PTBTokenizer (CoreNLP 3.4.1, `-preserveLines -lowerCase`) in Java, then removes the tokens of a
list. This gives the same for what captions consist of: words, numbers, contractions, brackets, quotes, common
abbreviations. What it knows less of are Stanford's long lists of abbreviations and emoticons.
"""

from __future__ import annotations

import re


# Written in two, though no apostrophe says so.
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
# Stanford's names for brackets, and its idea of currencies. COCO's list has the brackets in capitals, so that they stay.
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
