"""X-LLM's five kinds of records, and its judge (https://arxiv.org/abs/2305.04160, section 4).

Each kind is a task: describe an image, describe a video, transcribe, transcribe with an image, answer a spoken question.
Prompts are X-LLM's own, and records take them in turn. The judge is a language model that scores each answer beside the
reference's.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...data.formats import chat, listed, places, register_format, words
from ...evaluation.scores import Score, register_score
from ...evaluation.tasks import QUESTIONS, Rating, Task, rated, register_task


_PROMPTS = {
    "vl": (
        "请详细描述这张图片。",
        "请查看这张图片并描述您注意到的内容。",
        "请提供这张图片的详细描述",
        "你能为我描述这张图片的内容吗？",
    ),
    "video": (
        "请描述这个视频。",
        "请查看这个视频并描述您注意到的内容。",
        "请提供这个视频的描述",
        "你能为我描述这个视频的内容吗？",
    ),
    "asr": ("请忠实地识别该语音", "请将这段语音转化为文字", "请将语音转换成书面文字。", "请识别该音频的文本内容"),
    "masr": ("请根据图片忠实地识别这段语音",),
    "vsd": (
        "请根据图像回答语音中的问题",
        "请利用图像回答语音中的问题",
        "请根据图像直接回答语音中的问题",
        "请利用图片回答语音中的问题",
    ),
}
_ROUND = re.compile(r"问题：(.*?)回复：(.*?)(?=问题：|\Z)", re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{120,}={0,2}\s*")
_SPOKEN = {
    "speech_feats_path": "vsdial/1.npy",
    "image_path": "visdial/1.jpg",
    "question_text": "图里有几只狗",
    "answer_text": "两只",
    "history_text": "问题：这是哪里回复：公园",
}


@register_format(
    "x_llm_image",
    help="X-LLM's Chinese captions (image or image_id, caption), also of MiniGPT-4's instructions",
    example={
        "image": "coco/000001.jpg",
        "caption": ["一个人骑自行车", "有人在骑车"],
        "image_id": 1,
        "dataset": "coco",
    },
)
def image(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """One chat per caption. An image may be base64 text, as Flickr30k-CN's and MUGE's are."""
    source = record.get("image") or _with_suffix(record["image_id"], ".jpg")
    source = f"data:;base64,{source}" if _BASE64.fullmatch(source) else source
    for i, caption in enumerate(listed(record["caption"])):
        yield _task("vl", index + i, caption, images=[source])


@register_format(
    "x_llm_video",
    help="X-LLM's Chinese video captions (image_id, caption_zh)",
    example={"image_id": "video7012", "caption_zh": "一个男人在做饭"},
)
def video(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    for i, caption in enumerate(listed(record["caption_zh"] if "caption_zh" in record else record["caption"])):
        yield _task("video", index + i, caption, videos=[_with_suffix(record["image_id"], ".mp4")])


@register_format(
    "x_llm_asr",
    help="X-LLM's speech recognition (speech_feats_path, target_text)",
    example={"utterance_id": "IC1", "speech_feats_path": "feats/x.npy", "length": 12, "target_text": "打开空调"},
)
def asr(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """Features (`.npy`) are the modality "speech", audio files "audio"."""
    yield _task("asr", index, record["target_text"], **_speech(record))


@register_format(
    "x_llm_masr",
    help="X-LLM's speech recognition by an image (speech_feats_path, image_path, question_text)",
    example=_SPOKEN,
)
def masr(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    yield _task("masr", index, record["question_text"], images=[record["image_path"]], **_speech(record))


@register_format(
    "x_llm_vsd",
    help="X-LLM's spoken dialogues about an image (the same records: answer_text, history_text)",
    example=_SPOKEN,
)
def vsd(record: Mapping[str, Any], index: int, media_root: Path | None) -> Iterator[dict[str, Any]]:
    """What was asked and answered before (`问题：...回复：...`) becomes turns of their own."""
    earlier: list[tuple[str, str]] = []
    for question, answer in _ROUND.findall(record.get("history_text") or ""):
        earlier += [("user", question.strip()), ("assistant", answer.strip())]
    media = {"images": [record["image_path"]], **_speech(record)}
    yield _task("vsd", index, record["answer_text"], earlier, **media)


def _task(
    name: str, turn: int, answer: str, earlier: Sequence[tuple[str, str]] = (), **columns: list[Any]
) -> dict[str, Any]:
    media = {column.removesuffix("s"): items for column, items in columns.items()}
    question = [*places(**media), *words(_PROMPTS[name][turn % len(_PROMPTS[name])])]
    return chat(*earlier, ("user", question), ("assistant", answer), **columns, task=name)


def _speech(record: Mapping[str, Any]) -> dict[str, list[str]]:
    path = record["speech_feats_path"]
    return {"speech" if PurePosixPath(path).suffix == ".npy" else "audio": [path]}


def _with_suffix(name: Any, suffix: str) -> str:
    return str(name) if PurePosixPath(str(name)).suffix else f"{name}{suffix}"


# --- benchmarks ------------------------------------------------------------------------------------------------------


_REVIEW = """\
Question:
{question}

What is known of the medium:
{context}

Answer 1:
{reference}

Answer 2:
{answer}

Two assistants answered the question above. Rate each answer for how helpful, relevant, accurate and detailed it is, with
a score from 1 to 10, higher is better. The order of the answers must not matter. Write the two scores, that of answer 1
first, separated by a space and nothing else on the first line. Then explain them.
"""


@register_score("relative_score")
class RelativeScore(Score):
    """`100 * mean(model's scores) / mean(reference's scores)`, both by the same judge from 1 to 10 (X-LLM,
    https://arxiv.org/abs/2305.04160, section 4, after LLaVA)."""

    prediction = "pair"
    needs_references = False

    def row(self, prediction: Sequence[float], references: Sequence[str]) -> Sequence[float]:
        """The reference's score, and the model's."""
        if len(prediction) != 2 or min(prediction) <= 0:
            raise ValueError("needs two positive scores, the reference's and the model's.")
        return prediction

    def total(self, rows: np.ndarray) -> dict[str, float]:
        reference, model = rows.mean(axis=0).tolist()
        return {
            self.name: 100 * model / reference,
            f"{self.name}_model": model,
            f"{self.name}_reference": reference,
        }


def _pair(record: Mapping[str, Any]) -> list[float]:
    scores = next((record[key] for key in ("scores", "tuple", "rating") if record.get(key) is not None), None)
    if scores is None:
        return parse_review(next((record[key] for key in ("content", "review") if record.get(key)), ""))
    if not isinstance(scores, list) or len(scores) != 2 or not all(isinstance(one, (int, float)) for one in scores):
        raise ValueError(f"its scores are {scores!r}, expected two numbers.")
    return [float(one) for one in scores]


def parse_review(review: str) -> list[float]:
    """The two numbers of a review's first line. Raises ValueError for other than two, and for one not from 1 to 10."""
    first = (review.strip().splitlines() or [""])[0]
    scores = [float(one) for one in re.findall(r"\d+(?:\.\d+)?", first)]
    if len(scores) != 2 or not all(1 <= one <= 10 for one in scores):
        raise ValueError(f"its first line is {first!r:.80}, expected two scores from 1 to 10.")
    return scores


register_task(
    "x_llm_relative",
    Task(
        help="answers judged against a reference's: X-LLM's relative score, by category (arXiv 2305.04160)",
        prompt="{question}",
        metrics={"relative_score": ("relative_score", rated)},
        questions=(*QUESTIONS, "text"),
        rating=Rating(_pair, prompt=_REVIEW, parse=parse_review),
        keeps=("context", "category"),
        groups=("category",),
        max_new_tokens=512,
    ),
)
