"""Self-contained pages: answers with their media, and a page to rate them."""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.figures import figures, write_html
from .jobs import Job
from .results import AnswerFiles
from .scores import SCORES
from .tasks import Lines, rows_of


_STYLE = Path(__file__).with_name("pages.css").read_text(encoding="utf-8")
_SCRIPT = Path(__file__).with_name("rating.js").read_text(encoding="utf-8")


def write_samples_page(path: Path, job: Job, processor: Any, files: AnswerFiles, count: int) -> None:
    """Writes the first answers with their media, references and scores."""
    lines = files.lines(job.count)
    scored = zip(lines[:count], _scores(job, lines), strict=False)
    body = "".join(_shown(job, processor, line, scores) for line, scores in scored)
    note = f"<p class=score>The first {min(count, len(lines))} of {len(lines)} samples.</p>"
    write_html(path, f"{job.name}: answers", note + body, _STYLE)


def write_rating_page(path: Path, job: Job, processor: Any, files: AnswerFiles) -> None:
    """Writes all answers, each with the choices of the task's rating; the browser keeps ratings until they are saved."""
    lines, settings, choices = files.lines(), files.settings(), job.task.rating.choices
    body = "".join(_shown(job, processor, line, _choices(line, choices)) for line in lines)
    # Browsers share one storage among pages from disk: the run's name separates its ratings from another's.
    data = {
        "run": f"{job.name} {settings['weights']} {settings['data']} {settings['generation']}",
        "given": {json.dumps(line["id"]): line["rating"] for line in lines if "rating" in line},
    }
    inline = json.dumps(data).replace("<", "\\u003c")
    legend = "".join(
        f"<tr><th>{html.escape(choice)}</th><td>{html.escape(meaning)}</td></tr>"
        for choice, meaning in choices.items()
    )
    save = "<div id=save><button id=download>Save ratings.jsonl</button> <span id=count></span></div>"
    scripts = f"<script type=application/json id=data>{inline}</script>"
    write_html(path, f"{job.name}: rate answers", f"<table>{legend}</table>{body}{save}{scripts}", _STYLE, _SCRIPT)


def _choices(line: Mapping[str, Any], choices: Mapping[str, str]) -> str:
    name = html.escape(json.dumps(line["id"]), quote=True)
    buttons = (
        f'<label title="{html.escape(meaning)}"><input type=radio name="{name}" value="{html.escape(choice)}"> '
        f"{html.escape(choice)}</label>"
        for choice, meaning in choices.items()
    )
    return f"<div>{''.join(buttons)}</div>"


def _scores(job: Job, lines: Lines) -> list[str]:
    """The scores of each sample, for metrics that are defined for a single sample."""
    found = [""] * len(lines)
    rated = [i for i, line in enumerate(lines) if not job.task.rating or "rating" in line]
    for metric, (name, rows) in rows_of(job.task, [lines[i] for i in rated]).items():
        for i, row in zip(rated, rows, strict=True):
            value = next(iter(SCORES[name].total(row[None]).values()))
            if value == value:
                found[i] += f"<div class=score>{html.escape(metric)} {value:.3g}</div>"
    return found


def _shown(job: Job, processor: Any, line: Mapping[str, Any], below: str) -> str:
    sample = job.sample(line["index"])
    wanted = "".join(
        f"<div class=score>reference: {html.escape(one)}</div>" for one in dict.fromkeys(line["references"])
    )
    return (
        f"<h2>{html.escape(sample.where)}</h2>{figures(processor.media_of(sample.messages), processor)}"
        f"<div class=question>{html.escape(line['question'])}</div>"
        f"<div class=answer>{html.escape(line['answer']) or '<span class=wrong>(empty)</span>'}</div>{wanted}{below}"
    )
