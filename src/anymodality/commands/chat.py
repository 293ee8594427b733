"""`anymodality chat`."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymodality.commands import _options as options
from anymodality.commands._base import load_model, load_processor, media_part, sampling, tell


if TYPE_CHECKING:
    from transformers_anymodality.inference.conversation import Conversation


def chat(
    source: options.Source,
    system_prompt: options.SystemPrompt = None,
    max_new_tokens: options.MaxNewTokens = None,
    temperature: options.Temperature = None,
    seed: options.Seed = None,
    allow_urls: options.AllowUrls = False,
    dtype: options.DType = "auto",
    device: options.Device = None,
    module: options.Import = None,
) -> None:
    """Chat in the terminal, with media.

    /image PATH, /imu PATH, ... attach files to your next message, any number of
    them; /help lists all commands. Ctrl-C stops an answer, Ctrl-D ends the chat.
    Answers go to stdout, everything else to stderr.

    Example:
      anymodality chat my-model --temperature 0
    """
    from transformers_anymodality.inference.conversation import Conversation

    processor = load_processor(source)
    model = load_model(source, dtype, device)
    generation = sampling(model, max_new_tokens, temperature, seed)
    terminal = _Terminal(Conversation(model, processor, system_prompt, {"allow_urls": allow_urls}, **generation))
    _note(f"{source}: {', '.join(processor.modalities) or 'text only'}. /help lists all commands.")
    for line in _lines():
        if not terminal.read(line):
            break


class _Terminal:
    """Reads lines: commands, media and messages."""

    def __init__(self, conversation: "Conversation"):
        self.conversation = conversation
        self.media: list[dict[str, Any]] = []  # attached, but not sent yet
        self.commands = {"help": self._help, "reset": self._reset, "save": self._save}

    def read(self, line: str) -> bool:
        """Handles one line. Returns False at the end."""
        if line.rstrip() in ("/quit", "/exit"):
            return False
        try:
            self._command(line[1:]) if line.startswith("/") else self._say(line)
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            _note(f"{error}")
        return True

    def _command(self, line: str) -> None:
        from transformers_anymodality.utils.registry import did_you_mean

        name, _, argument = line.strip().partition(" ")
        modalities = self.conversation.processor.modalities
        if name in self.commands:
            self.commands[name](_path(argument))
        elif name in modalities:
            self._attach(name, _path(argument))
        else:
            known = [*modalities, *self.commands, "quit"]
            raise ValueError(f"There is no /{name}.{did_you_mean(name, known)} /help lists all commands.")

    def _help(self, _: str) -> None:
        media = ", ".join(f"/{name} PATH" for name in self.conversation.processor.modalities)
        _note(
            f"{media or 'No media'}: attach files to your next message\n"
            "/reset: start a new conversation\n"
            "/save FILE.jsonl: append the conversation to a file for `anymodality data` and training\n"
            "/quit: end (so does Ctrl-D; Ctrl-C ends an answer)"
        )

    def _reset(self, _: str) -> None:
        self.conversation.reset()
        self.media.clear()
        _note("A new conversation.")

    def _save(self, path: str) -> None:
        from transformers_anymodality.utils.files import json_lines

        messages = self.conversation.messages
        if not path or not any(message["role"] == "assistant" for message in messages):
            raise ValueError("/save needs the name of a file." if not path else "The conversation is empty.")
        with Path(path).expanduser().open("a", encoding="utf-8") as file:
            file.write(json_lines([{"messages": messages}]))
        _note(f"{len(messages)} messages appended to {path}.")

    def _attach(self, name: str, path: str) -> None:
        if not path:
            raise ValueError(f"/{name} needs the path of a file.")
        from transformers_anymodality.data.showing import counted

        part = media_part(name, path)
        if "path" in part:
            part["path"] = str(Path(path).expanduser().absolute())  # a saved chat may be read from other folders
        where = f"{name} {1 + len([p for p in self.media if p['type'] == name])}: "
        try:
            tokens = counted(self.conversation.count_tokens(part))
        except ValueError as error:  # which counts from 0, and from this message's media alone
            raise ValueError(where + str(error).removeprefix(f"{name} 0: ")) from error
        self.media.append(part)
        _note(f"{where}{path} ({tokens})")

    def _say(self, text: str) -> None:
        if not text.strip() and not self.media:
            return
        content = [*self.media, *([{"type": "text", "text": text}] if text.strip() else [])]
        self.media = []
        self.conversation.say(content, lambda words: tell(words, end="", flush=True))
        print(flush=True)


def _path(argument: str) -> str:
    """A path as typed: bare, with spaces too, or quoted as for a shell."""
    argument = argument.strip()
    if argument[:1] in ("'", '"'):
        return " ".join(shlex.split(argument))
    return argument


def _note(text: str) -> None:
    tell(text, file=sys.stderr, flush=True)


def _lines() -> Iterator[str]:
    if not sys.stdin.isatty():
        yield from (line.rstrip("\r\n") for line in sys.stdin)
        return
    with suppress(ImportError):
        import readline  # noqa: F401 (gives `input` a history and keys to edit with)
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
