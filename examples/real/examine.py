"""Examines the finished model: its answers against a rival's, and against its answers to exchanged media."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import results, rivals, tasks
from .learn import Lesson
from .tasks import Question


MOST = 100  # questions per row, if a data set has more
CHOICES = 10  # captions to choose from
# Row -> metric; default: share of right answers.
METRICS = {
    "speech": (results.word_errors, "wer"),
    "speech_foreign": (results.word_errors, "wer"),
    "translation": (results.chrf, "chrf"),
    "noisy": (results.chrf, "chrf"),
    "senses": (results.chrf, "chrf"),
    "yes_or_no": (results.verdict, "accuracy"),
    "two_pictures": (results.verdict, "accuracy"),
}
# Row -> places of the media that its control exchanges; default: the first.
EXCHANGED = {"same": (-1,), "two_pictures": (0, 1)}
# Row -> modalities that are also tested alone: the better one is the rival.
ALONE = {"noisy": ("audio",), "senses": ("image", "audio")}


@dataclass
class Row:
    """Questions, with the answers of the model, of the model with an exchanged medium, and of a rival."""

    questions: list[Question]
    said: list[Any]
    exchanged: list[Any]
    rival: list[Any] | None
    rival_is: str
    control_is: str
    numbers: dict[str, Any] = field(default_factory=dict)


@dataclass
class Examination:
    """
    Attributes:
        lesson: the finished lesson, for the features that the rivals read.
        test: row -> questions.
        parts: folder of the parts: `whisper`, `minilm`.
        model: folder of the saved model.
    """

    lesson: Lesson
    test: dict[str, list[Question]]
    parts: Path
    model: Path
    probes: dict[str, Callable[[list[Question]], list[str]]] = field(default_factory=dict, repr=False)

    def run(self) -> dict[str, Row]:
        asked = self._chosen()
        controls = {name: tasks.exchanged(questions, EXCHANGED.get(name, (0,))) for name, questions in asked.items()}
        choices = self._choices(asked.get("captions", []))
        said = self._answers(asked, controls, choices)
        rows = {}
        for name, questions in asked.items():
            rival, rival_is = self._rival(name, questions, choices, said)
            places = EXCHANGED.get(name, (0,))
            exchanged = f"another {questions[0].media[places[0]][0]}"
            rows[name] = Row(questions, said[name], said[f"{name} exchanged"], rival, rival_is, exchanged)
            rows[name].numbers = _numbers(name, rows[name])
        return rows

    def _chosen(self) -> dict[str, list[Question]]:
        rng = random.Random(5)
        rows = {name: all_ for name, all_ in self.test.items() if all_ and name != "names"}
        return {name: rng.sample(all_, min(MOST, len(all_))) for name, all_ in rows.items()}

    def _choices(self, questions: list[Question]) -> dict[str, list[list[str]]]:
        """The right caption among captions of other stamps, in random order."""
        rng, several = random.Random(6), []
        for question in questions:
            others = [one.answer for one in questions if one.rest["cluster"] != question.rest["cluster"]]
            found = [question.answer, *rng.sample(sorted(set(others)), CHOICES - 1)]
            several.append(rng.sample(found, CHOICES))
        return {"captions": several} if questions else {}

    def _answers(self, asked: dict, controls: dict, choices: dict) -> dict[str, list]:
        """Answers of the saved model, in a new process. Captions are ranked, other answers are generated."""
        chats, ranked = {}, {}
        alone = {
            f"{name} {modality}": [tasks.only(question, modality) for question in asked[name]]
            for name, modalities in ALONE.items()
            for modality in modalities
            if name in asked
        }
        for suffix, rows in (("", asked | alone), (" exchanged", controls)):
            for name, questions in rows.items():
                if name == "captions":
                    ranked[name + suffix] = [
                        [Question(one.text, text, one.media).record for text in several]
                        for one, several in zip(questions, choices[name], strict=True)
                    ]
                else:
                    chats[name + suffix] = [question.record["messages"][:-1] for question in questions]
        files = [self.model.with_name(name) for name in ("questions.json", "answers.json")]
        files[0].write_text(json.dumps({"chats": chats, "choices": ranked}))
        command = [sys.executable, "-m", "real.answers", str(self.model), *map(str, files)]
        subprocess.run(command, check=True)
        said = json.loads(files[1].read_text())
        for name in ("captions", "captions exchanged"):
            if name in said:
                said[name] = [texts[i] for texts, i in zip(choices["captions"], said[name], strict=True)]
        return said

    def _rival(self, name: str, questions: list[Question], choices: dict, said: dict) -> tuple[list[Any] | None, str]:
        lesson = self.lesson
        if name in ALONE:
            wanted, (score, metric) = [question.answer for question in questions], METRICS[name]
            best = max if metric not in results.LESS_IS_BETTER else min
            own = {modality: said[f"{name} {modality}"] for modality in ALONE[name]}
            modality = best(own, key=lambda one: results.ratio(*score(own[one], wanted).T))
            return own[modality], f"itself, by {modality} alone"
        if name == "speech" and (self.parts / "whisper").is_dir():
            return rivals.whisper(self.parts / "whisper", questions), "Whisper tiny.en itself"
        if name in ("categories", "motion"):
            return self._probe(name)(questions), "logistic regression, same features"
        if name == "yes_or_no":
            seen = self._probe("categories")(questions)
            said = [
                "Yes." if one == question.rest["asked"] else "No."
                for one, question in zip(seen, questions, strict=True)
            ]
            return said, "the category by logistic regression"
        if name == "captions" and (self.parts / "minilm").is_dir():
            train = lesson.questions["captions"]
            nearest = rivals.retrieve(
                train, questions, choices[name], self.parts / "minilm", lesson.processor, lesson.features
            )
            chosen = [several[i] for several, i in zip(choices[name], nearest, strict=True)]
            return chosen, "linear map to MiniLM's caption embedding"
        return None, ""

    def _probe(self, name: str) -> Callable[[list[Question]], list[str]]:
        """Fitted once for both rows that use it."""
        if name not in self.probes:
            lesson = self.lesson
            self.probes[name] = rivals.probe(lesson.questions[name], lesson.processor, lesson.features)
        return self.probes[name]


def _numbers(name: str, row: Row) -> dict[str, Any]:
    wanted = [question.answer for question in row.questions]
    chance = {
        "categories": 1 / 9,
        "yes_or_no": 0.5,
        "captions": 1 / CHOICES,
        "motion": 1 / 7,
        "same": 0.5,
        "both": 0.0,
        "two_pictures": 0.5,
    }
    score, metric = METRICS.get(name, (results.exact, "accuracy"))
    rival = None if row.rival is None else score(row.rival, wanted)
    found = results.row(
        metric, score(row.said, wanted), score(row.exchanged, wanted), rival, (row.rival_is, row.control_is),
        chance.get(name),
    )  # fmt: skip
    if metric == "wer":
        for which, said in (("cer", row.said), ("cer_control", row.exchanged), ("cer_rival", row.rival)):
            if said is not None:
                found[which] = float(results.ratio(*results.character_errors(said, wanted).T))
    return found


def text_kept(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Perplexity and short questions, before with the language model alone, after with the finished model.

    Args:
        before, after: `losses`: (sum, words) of each passage; `right`: whether each short question is right.
    """
    both = np.concatenate([np.array(after["losses"]), np.array(before["losses"])], 1)

    def worse(a, n, b, m, axis=-1):
        return np.exp(results.ratio(a, n, axis) - results.ratio(b, m, axis)) - 1

    return {
        "perplexity": math.exp(results.ratio(*both[:, :2].T)),
        "perplexity_before": math.exp(results.ratio(*both[:, 2:].T)),
        "worse_by": float(worse(*both.T)),
        "interval": results.interval(both, worse),
        "n": len(both),
        "short_questions": int(sum(after["right"])),
        "short_questions_before": int(sum(before["right"])),
        "short_questions_n": len(after["right"]),
    }
