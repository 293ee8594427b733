"""The page: results with rivals and controls, and media with the model's answers."""

import html
import re
from pathlib import Path
from typing import Any

from digits_world.page import curve

from transformers_anymodality.data.figures import figure, write_html

from .examine import Row
from .results import LESS_IS_BETTER


TITLES = {
    "speech": "English speech, transcribed",
    "speech_foreign": "Spanish speech, transcribed",
    "translation": "Spanish speech into English",
    "categories": "The category of a picture",
    "yes_or_no": "Yes or no, about a picture",
    "captions": "The right one of ten captions, new pictures",
    "motion": "Exercises, new subjects",
    "same": "Does the recording say what is in the picture?",
    "both": "A word and a picture, both right",
    "two_pictures": "Which of two pictures?",
    "noisy": "Spanish in noise into English, with its picture",
    "senses": "A hidden picture and speech in noise",
    "text": "Text not lost",
}
MARKS = re.compile(r"<!-- real -->.*?<!-- /real -->", re.DOTALL)
STYLE = """
table{border-collapse:collapse} td,th{padding:.3rem .9rem;text-align:right;border-bottom:1px solid #e3e5ec}
td:first-child,th:first-child,td:last-child{text-align:left} .q{color:#5b6275;font-size:.9rem}
.cards{display:flex;flex-wrap:wrap;gap:1rem}
.card{background:#fff;border:1px solid #e3e5ec;border-radius:.6rem;padding:.8rem}
.card{width:17rem} .card img{width:7rem;height:7rem;object-fit:contain} .card audio{width:16rem;height:2.2rem}
.card svg{width:16rem;height:auto} .card figure{margin:0} .card figcaption{display:none} .right{color:#16803c}
"""


def table(found: dict[str, Any]) -> list[list[str]]:
    """Head and rows: what, metric, measured with its interval, rival, control, n."""
    lines = [["", "metric", "measured", "95 %", "rival", "exchanged", "n", "the rival"]]
    for name in [name for name in TITLES if name in found and name != "text"]:
        one = found[name]
        metric = next(key for key in ("wer", "chrf", "accuracy") if key in one)
        low, high = one["interval"]
        label = f"{metric}{' (less is better)' if metric in LESS_IS_BETTER else ''}"
        rival = "-" if one["rival"] is None else f"{one['rival']:.3f}"
        lines.append([TITLES[name], label, f"{one[metric]:.3f}", f"{low:.3f} to {high:.3f}", rival,
                      f"{one['control']:.3f}", str(one["n"]), one["rival_is"] or "none"])  # fmt: skip
    return lines


def markdown(found: dict[str, Any]) -> str:
    """The table, and the results for text, for docs."""
    head, *lines = [[cell or " " for cell in line] for line in table(found)]
    marks = ["---", "---", "--:", "---", "--:", "--:", "--:", "---"]
    text, low_high = found["text"], "{:+.1%} to {:+.1%}".format(*found["text"]["interval"])
    kept = (
        f"Text: perplexity of held-out English {text['perplexity_before']:.2f} before, {text['perplexity']:.2f} after "
        f"({text['worse_by']:+.1%}, 95 % {low_high}, {text['n']} passages); short questions answered "
        f"{text['short_questions_before']} of {text['short_questions_n']} before, {text['short_questions']} after."
    )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    threads = "one CPU thread" if found["threads"] == 1 else f"{found['threads']} CPU threads"
    took = f"All of it took {found['seconds'] / 60:.0f} minutes of {threads}, without downloads ({versions})."
    rows = "\n".join("| " + " | ".join(line) + " |" for line in [head, marks, *lines])
    return f"{rows}\n\n{kept}\n\n{took}"


def write_docs(found: dict[str, Any], files: list[Path]) -> None:
    """Puts the table between the marks of each file."""
    for file in files:
        text = file.read_text(encoding="utf-8")
        new, count = MARKS.subn(lambda _: f"<!-- real -->\n\n{markdown(found)}\n\n<!-- /real -->", text)
        if count != 1:
            raise ValueError(f"{file} has {count} places between <!-- real --> and <!-- /real -->; one is needed.")
        file.write_text(new, encoding="utf-8")


def write(
    file: Path,
    found: dict[str, Any],
    rows: dict[str, Row],
    logs: dict[str, list[dict]],
    processor: Any,
    parts: list[dict],
) -> None:
    """
    Args:
        found: as in `results.json`.
        parts: of each part and data set, `name`, `version`, `licence`, `use`.
    """
    head, *lines = table(found)
    scores = _table(head, lines)
    losses = "".join(curve(stage, log) for stage, log in logs.items() if log)
    text = found.get("text", {})
    kept = (
        f"<p>Perplexity of held-out English prose: {text['perplexity_before']:.2f} before, "
        f"{text['perplexity']:.2f} after ({text['worse_by']:+.1%}, 95 % {text['interval'][0]:+.1%} to "
        f"{text['interval'][1]:+.1%}). "
        f"Short questions answered: {text['short_questions_before']} of {text['short_questions_n']} before, "
        f"{text['short_questions']} after.</p>"
        if text
        else ""
    )
    cards = "".join(
        f"<h2>{TITLES[name]}</h2><div class=cards>{''.join(_card(row, i, processor) for i in _shown(row))}</div>"
        for name, row in rows.items()
    )
    used = _table(
        ["part", "version", "licence", "for"], [[p["name"], p["version"], p["licence"], p["use"]] for p in parts]
    )
    body = (
        f"<p>One model from real parts, trained and examined in {found['seconds'] / 60:.0f} minutes on a CPU, and tested "
        "on new media. Each number has a rival, and a control: the same question with another picture or recording."
        "</p>"
        f"{scores}<h2>{TITLES['text']}</h2>{kept}<h2>Loss</h2>{losses}{cards}<h2>Parts and data</h2>{used}"
    )
    write_html(file, "A language model that hears, sees and feels", body, STYLE)


def _table(head: list[str], lines: list[list[str]]) -> str:
    cells = lambda row, tag: "".join(f"<{tag}>{html.escape(cell)}" for cell in row)  # noqa: E731
    body = "".join(f"<tr>{cells(line, 'td')}" for line in lines)
    return f"<table><tr>{cells(head, 'th')}{body}</table>"


def _shown(row: Row, count: int = 8) -> range:
    return range(0, len(row.questions), max(1, len(row.questions) // count))[:count]


def _card(row: Row, i: int, processor: Any) -> str:
    question, said = row.questions[i], row.said[i]
    media = "".join(figure(name, path, processor, Path(path).name) for name, path in question.media)
    right = said.strip(" .").lower() == question.answer.strip(" .").lower()
    rival = f"<br><span class=q>rival: {html.escape(str(row.rival[i]))}</span>" if row.rival else ""
    return (
        f"<div class=card>{media}<div class=q>{html.escape(question.text)}</div>"
        f"<b class={'right' if right else 'wrong'}>{html.escape(said)}</b><br>"
        f"<span class=q>it is: {html.escape(question.answer)}</span>{rival}</div>"
    )
