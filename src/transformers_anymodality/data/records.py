"""Reads a record of any format: its chat, with every medium in its part, and its problems."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..modalities import MODALITIES, MediaError, UnknownModalityError
from ..modalities._source import SCHEME, is_data_uri
from ..processing.chat import media_of, part_source, parts_of, read_chats
from ..processing.tokenization import Prompt, count_error
from ..utils.registry import did_you_mean


MEDIA_ROOT = "Relative paths begin in the media root: pass `media_root=` to the collator, `--media-root` to a command."
# Names of speakers in data sets -> roles.
ROLES = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bot", "bard", "bing"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}


class RecordError(ValueError):
    """A record cannot be used. `kind` is a kind of problem in `check`, `modality` the affected modality."""

    def __init__(self, message: str, kind: str = "broken_record", modality: str | None = None):
        super().__init__(message)
        self.kind, self.modality = kind, modality


@dataclass
class Chat:
    """A record as training, evaluation and features read it.

    Attributes:
        where: its name in errors: its place, and its id if it has one.
        messages: content parts hold their media, also media from columns.
        media: modality -> its media, in the order of their parts.
        tools: for the chat template.
        problems: all problems found. A record that cannot be read has no messages.
    """

    where: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    media: dict[str, list[Any]] = field(default_factory=dict)
    tools: list[Any] | None = None
    problems: list[RecordError] = field(default_factory=list)

    def checked(self) -> "Chat":
        """The chat itself; raises the first of its problems."""
        for problem in self.problems:
            raise problem
        return self

    def add(self, problem: str, kind: str, modality: str | None = None) -> None:
        message = f"{self.where}{' ' if problem.startswith('has ') else ': '}{problem}"
        self.problems.append(RecordError(message, kind, modality))

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Adds an error within as a problem; templates may raise anything."""
        try:
            yield
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            kind = "unknown_modality" if isinstance(error, UnknownModalityError) else "broken_record"
            self.add(str(error), kind)
            self.problems[-1].__cause__ = error

    def count(self, modality: str, token: str, places: int) -> None:
        """Adds a problem if there are more or fewer media than placeholders."""
        given = len(self.media.get(modality, ()))
        if places != given and not any(problem.modality == modality for problem in self.problems):
            self.add(count_error(modality, token, places, given), "wrong_count", modality)


def encode_chats(chats: Sequence[Chat], processor: Any) -> list[Prompt | None]:
    """Each chat's tokens, with the assistant's marked; None if it has none. Errors become its problems."""
    tokenizer, texts = processor.prompt_tokenizer, {}
    for i, chat in enumerate(chats):
        with chat.failing():
            if chat.messages:
                texts[i] = processor.write_chat(chat.messages, chat.tools, said=True)
    prompts: dict[int, Prompt] = {}
    try:
        prompts = dict(zip(texts, tokenizer.encode([*texts.values()]), strict=True))
    except Exception:
        for i, text in texts.items():  # one by one, so that the error is assigned to its chat
            with chats[i].failing():
                (prompts[i],) = tokenizer.encode([text])
    for i, prompt in prompts.items():
        for name, token_id in tokenizer.placeholders.items():
            chats[i].count(name, processor.modalities[name].token, prompt.count(token_id))
        if not prompt.said.any():
            chats[i].add("has no assistant text to train on.", "no_answer")
    return [prompts.get(i) for i in range(len(chats))]


def read_chat(
    index: int,
    record: Any,
    processor: Any = None,
    media_root: Any = None,
    *,
    question: str | None = None,
    of_batch: bool = False,
) -> Chat:
    """Reads a record of any kind; problems are stored in the chat.

    Args:
        index: its place in the data, for errors.
        record: a record that `normalize` reads.
        processor: the model's. Without it, media of all registered modalities are accepted.
        media_root: folder that relative paths are in.
        question: for a record that is not a chat: the user's text after the media in its columns.
        of_batch: `index` is its place in a batch that a Trainer made.
    """
    chat = Chat(name_of(index, record, of_batch))
    with chat.failing():
        if isinstance(record, Mapping) and question is None:
            _check_columns(record, of_batch)
        _read(chat, record, processor, media_root, question)
    return chat


def _check_columns(record: Mapping[str, Any], of_batch: bool) -> None:
    if {"messages", "conversations", "__key__"} & record.keys():
        return
    advice = "A chat is in `messages`, or in `conversations`."
    if of_batch:
        advice = (
            "Trainer removes columns that are not arguments of the model's forward: set remove_unused_columns=False in "
            "TrainingArguments."
        )
    raise ValueError(f"has no `messages` (its columns: {', '.join(map(str, record)) or 'none'}). {advice}")


def _read(chat: Chat, record: Any, processor: Any, media_root: Any, question: str | None) -> None:
    if not isinstance(record, Mapping):
        raise ValueError(f"has no `messages`, because it is not a dict, but of type {type(record).__name__}.")
    if question is not None:
        columns = media_columns(record).items()
        places = [{"type": name} for name, column in columns for _ in items_of(name, record[column])]
        record = {**record, "messages": [{"role": "user", "content": [*places, {"type": "text", "text": question}]}]}
    sample = normalize(record, media_root=media_root)
    (messages,), _ = read_chats(sample["messages"])
    columns = {name: list(sample[column]) for name, column in media_columns(sample).items()}
    modalities = MODALITIES if processor is None else processor.modalities
    own = media_of(messages, modalities)
    if lacking := [name for name in columns if name not in modalities]:
        raise UnknownModalityError(f"has media of {lacking[0]!r}, but this model does not have that modality.")
    chat.messages, chat.tools = [_filled(message, columns) for message in messages], sample.get("tools")
    chat.media = media_of(chat.messages, modalities)
    places = Counter(part.get("type") for part in parts_of(messages))
    for name in modalities:
        if (left := columns.get(name)) and name in own:
            chat.add(f"has media of {name!r} both in its messages and in a column: keep one.", "wrong_count", name)
        elif left:
            chat.media[name] = [*chat.media.get(name, []), *left]
        chat.count(name, modalities[name].token, places[name])


def _filled(message: dict[str, Any], columns: dict[str, list[Any]]) -> dict[str, Any]:
    """The message with the next medium of its column in each bare part."""
    if not isinstance(message.get("content"), list):
        return message
    parts = []
    for part in message["content"]:
        name = part.get("type") if isinstance(part, dict) else None
        if columns.get(name) and part_source(name, part) is None:
            part = {**part, name: columns[name].pop(0)}
        parts.append(part)
    return {**message, "content": parts}


def name_of(index: int, record: Any, of_batch: bool = False) -> str:
    """A sample's name in errors: its place, and its id if it has one. In a batch, where the place says little, its first
    path or text if it has no id."""
    record = record if isinstance(record, Mapping) else {}
    known = f"id {record['id']!r}" if isinstance(record.get("id"), (str, int)) else ""
    if of_batch and not known:
        with suppress(ValueError):  # the media of two columns
            columns = (*media_columns(record).values(), "messages", "conversations")
            known = _first_words([record.get(name) for name in columns])
    return f"Sample {index}{' of this batch' * of_batch}" + f" ({known})" * bool(known)


def _first_words(value: Any) -> str:
    """The first path or text in media and messages, shortened and quoted; empty if there is none."""
    if isinstance(value, (str, Path)):
        text = str(value).strip()
        return repr(text if len(text) <= 80 else f"{text[:77]}...") if text else ""
    if isinstance(value, Mapping):
        value = [one for name, one in value.items() if name not in ("role", "from", "type")]
    return next(filter(None, map(_first_words, value)), "") if isinstance(value, (list, tuple)) else ""


def origin(error: BaseException) -> BaseException:
    """The error that an error began with; the error itself if it has no cause."""
    return error if error.__cause__ is None else origin(error.__cause__)


def located(where: str, error: Exception, prefix: str = "") -> MediaError:
    """An error about a medium with the sample's name, and a hint for a missing file; `prefix` is removed."""
    message = f"{where}: {str(error).removeprefix(prefix)}"
    return MediaError(f"{message} {MEDIA_ROOT}" if is_missing(error) and MEDIA_ROOT not in message else message)


def is_missing(error: BaseException | None) -> bool:
    """Whether an error was caused by a file that does not exist."""
    return error is not None and (isinstance(error, FileNotFoundError) or is_missing(error.__cause__))


def normalize(
    record: Mapping[str, Any], *, media_root: str | Path | None = None, markers: bool | None = None
) -> dict[str, Any]:
    """A record as a chat.

    Args:
        record: has `messages` (role and content) or `conversations` (from and value, as in LLaVA and ShareGPT). Media are
            in content parts, or in columns in the order of their places: under a modality's argument name (`images`),
            its name (`image`) or the name plus s. A sample of a WebDataset shard has its chat in `json`, or a caption in
            `txt`, and its media in fields by suffix (`jpg`, `1.wav`, `imu.csv`).
        media_root: folder that relative paths are in.
        markers: whether `<image>`, `<audio>`, `<imu>`, ... in strings mark media. By default, they do in `conversations`,
            and are plain text in `messages`.

    Returns:
        A new dict with `messages`, media columns as lists under the processor's argument names, and all else unchanged.

    Raises:
        ValueError: neither chat nor caption, a turn without text, an unknown speaker, media of one kind in two columns.
    """
    if "__key__" in record:
        record = _from_shard(record)
    rest = {key: value for key, value in record.items() if key not in ("messages", "conversations", "system")}
    for name, column in media_columns(record).items():
        spec = MODALITIES[name]
        rest[spec.argument] = [
            rooted(one, media_root, spec.medium == "text") for one in items_of(name, rest.pop(column))
        ]
    if isinstance(rest.get("tools"), str):
        rest["tools"] = json.loads(rest["tools"] or "null")
    return {"messages": _messages(record, media_root, markers), **rest}


def media_columns(record: Mapping[str, Any]) -> dict[str, str]:
    """Modality -> the column that holds its media, for non-empty columns."""
    found = {}
    for name in MODALITIES:
        names = dict.fromkeys((MODALITIES[name].argument, name, f"{name}s"))
        columns = [column for column in names if not _is_empty(record.get(column))]
        if len(columns) > 1:
            raise ValueError(f"Media of {name!r} are in two columns, {columns[0]!r} and {columns[1]!r}: keep one.")
        if columns:
            found[name] = columns[0]
    return found


def items_of(modality: str, column: Any) -> list[Any]:
    """The media of a column that holds one, or several."""
    return [column] if MODALITIES[modality].is_item(column) else list(column)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, tuple)) and not len(value))


def _messages(record: Mapping[str, Any], media_root: Any, markers: bool | None) -> list[dict[str, Any]]:
    key = "messages" if record.get("messages") is not None else "conversations"
    turns = record.get(key)
    if isinstance(turns, (str, Mapping)) or not isinstance(turns, Sequence) or not turns:
        raise ValueError(f"has no messages: expected a non-empty list, not {turns!r:.80}.")
    markers = key == "conversations" if markers is None else markers
    messages = [_message(i, turn, media_root, markers) for i, turn in enumerate(turns)]
    if isinstance(record.get("system"), str) and record["system"] and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": record["system"]})
    return messages


def _message(index: int, turn: Any, media_root: Any, markers: bool) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise ValueError(f"has a turn {index} that is not a dict, but of type {type(turn).__name__}.")
    if "role" in turn:
        message = dict(turn)
        content = message.get("content")
        if isinstance(content, str) and markers:
            message["content"] = split_markers(content)
        elif isinstance(content, (list, tuple)):
            message["content"] = [_part(part, media_root) for part in content]
        return message
    speaker, value = turn.get("from"), turn.get("value")
    if not isinstance(speaker, str) or speaker.lower() not in ROLES:
        hint = did_you_mean(speaker, ROLES)
        raise ValueError(f"has a turn {index} from {speaker!r}.{hint} Known: {', '.join(ROLES)}.")
    if not isinstance(value, str):
        raise ValueError(f"has a turn {index} whose value is not a string, but {value!r:.80}.")
    content = split_markers(value) if markers else [{"type": "text", "text": value}]
    return {"role": ROLES[speaker.lower()], "content": content}


def _part(part: Any, media_root: Any) -> Any:
    if not isinstance(part, Mapping) or part.get("type") not in MODALITIES:
        return part
    part, name = dict(part), part["type"]
    if part.get("path") is not None:
        part["path"] = rooted(part["path"], media_root)
    if part.get("files") is not None:
        part["files"] = rooted(part["files"], media_root)
    if part.get(name) is not None:
        part[name] = rooted(part[name], media_root, MODALITIES[name].medium == "text")
    return part


def split_markers(text: str, tokens: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Content parts of a string: a bare part in place of each marker, and the unchanged text between.

    `tokens`: marker -> modality; `<name>` for each registered modality if left out.
    """
    tokens = {MODALITIES[name].token: name for name in MODALITIES} if tokens is None else tokens
    pieces = re.split(f"({'|'.join(map(re.escape, tokens))})", text)
    parts = [
        {"type": tokens[piece]} if piece in tokens else {"type": "text", "text": piece} for piece in pieces if piece
    ]
    return parts or [{"type": "text", "text": ""}]


def rooted(source: Any, media_root: str | Path | None, is_text: bool = False) -> Any:
    """A medium with relative paths joined to `media_root`; other values stay, and with `is_text`, strings, too."""
    if media_root is None:
        return source
    if isinstance(source, Path) or (isinstance(source, str) and not is_text):
        text = str(source)
        if SCHEME.match(text) or is_data_uri(text) or text.startswith("~"):
            return source
        path = Path(media_root, source)
        return str(path) if isinstance(source, str) else path
    if isinstance(source, list):
        return [rooted(one, media_root, is_text) for one in source]
    if isinstance(source, Mapping):
        keys = [
            key for key in ("path", "frames", "files") if source.get(key) is not None and source.get("bytes") is None
        ]
        return {**source, **{key: rooted(source[key], media_root) for key in keys}}
    return source


# --- samples of WebDataset shards ----------------------------------------------------------------------------------------


def _from_shard(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A record from a sample as `datasets` reads it: `__key__`, and a field per file.

    The chat is in `json`; without it, `txt` is a caption, the assistant's text about the media. Media are found by suffix
    (`jpg`, `2.jpg`, `wav`) or, if several modalities share it, by name (`depth.png`, `imu.csv`), in the order of their
    names.
    """
    given = sample.get("json")
    record: dict[str, Any] = dict(given) if isinstance(given, Mapping) else {}
    media: dict[str, list[Any]] = {}
    files = [name for name in sample if not name.startswith("__") and name not in ("json", "txt")]
    for file in sorted(files, key=_natural):
        if sample[file] is not None and (name := modality_of_field(file)) is not None:
            media.setdefault(name, []).append(sample[file])
    for name, items in media.items():  # files in the shard replace names that its chat may still have for them
        record = {key: value for key, value in record.items() if key not in (name, f"{name}s")}
        record[MODALITIES[name].argument] = items
    if not ("messages" in record or "conversations" in record) and isinstance(sample.get("txt"), str):
        places = [{"type": name} for name, items in media.items() for _ in items]
        words = [{"type": "text", "text": sample["txt"]}]
        record["messages"] = [{"role": "user", "content": places}, {"role": "assistant", "content": words}]
    return {**record, "id": record.get("id", sample["__key__"])}


def modality_of_field(field: str) -> str | None:
    """The modality of a field, or None if it does not hold a medium."""
    *names, suffix = field.lower().split(".")
    for part in names:
        part = re.sub(r"[_-]?\d+$", "", part)
        for name, spec in MODALITIES.items():
            if part in (name, spec.argument):
                return name
    for name, spec in MODALITIES.items():
        if f".{suffix}" in spec.suffixes and spec.medium in ("pixels", "audio") and suffix != "npy":
            return name
    return None


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts "2" before "10"."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", text)]
