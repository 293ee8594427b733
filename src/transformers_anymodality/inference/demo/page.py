"""The page: its widgets and their actions. The modalities' specs say which widgets there are."""

import html
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from anymodality.plain.printing import in_markdown

from ...modalities import MODALITIES, AudioSpec, ImageSpec, ModalitySpec, VideoSpec
from .examples import Example, modalities, read_examples
from .running import files_alone, private_folder
from .session import Host, Policy, Session, Turn


_DAY = 24 * 3600
_MAX_WAITING = 16  # visitors whose messages are shown while they wait; more wait in gradio's queue

# Media that browsers record, by the kind of the modality's spec: device, widget, and the event that ends a recording.
_RECORDERS = {
    AudioSpec: ("Microphone", gr.Audio, {"sources": ["microphone"], "type": "filepath"}, "stop_recording"),
    ImageSpec: ("Camera", gr.Image, {"sources": ["webcam"], "type": "filepath"}, "input"),
    VideoSpec: (
        "Camera",
        gr.Video,
        {"sources": ["webcam"], "webcam_options": gr.WebcamOptions(mirror=False)},
        "stop_recording",
    ),
}


def build_page(
    model: Any,
    processor: Any,
    name: str,
    *,
    system_prompt: str | None = None,
    examples: str | Path | None = None,
    policy: Policy | None = None,
) -> gr.Blocks:
    """The page of a checkpoint; `launch` runs it.

    Args:
        model, processor: of the checkpoint.
        name: its name on the page.
        system_prompt: the chat's system prompt.
        examples: JSONL of chats; the page offers their first messages to try; none if left out.
        policy: what visitors may do.
    """
    private_folder()
    found = [] if examples is None else read_examples(Path(examples), processor)
    return Page(Host(model, processor, policy or Policy(), system_prompt), name, found).blocks


class Page:
    """The page's components and their actions. Each visitor has a `Session` in a `gr.State`."""

    def __init__(self, host: Host, name: str, examples: list[Example]):
        self.host, self.name, self.examples = host, name, examples
        self.modalities = modalities(host.processor)
        with gr.Blocks(
            title=name, analytics_enabled=False, fill_height=True, fill_width=True, delete_cache=(3600, _DAY)
        ) as self.blocks:
            self.session = gr.State(None, time_to_live=_DAY)
            self._settings()
            self._chat()
            self._events()

    # --- components ------------------------------------------------------------------------------------------------

    def _settings(self) -> None:
        config, most = self.host.model.generation_config, self.host.policy.max_new_tokens
        with gr.Sidebar(width=330, open=False):  # an open one would cover the chat on a phone
            gr.Markdown(f"## {in_markdown(self.name)}")
            gr.Markdown(f"Reads text{''.join(f', {name}' for name in self.modalities)}.")
            self.new = gr.Button("New conversation", elem_id="new")
            self.max_new_tokens = gr.Slider(
                1,
                most,
                min(config.max_new_tokens or 256, most),
                step=1,
                label="Maximum length of an answer, in tokens",
            )
            self.greedy = gr.Checkbox(not config.do_sample, label="Always the most likely answer (greedy)")
            self.temperature = gr.Slider(
                0.05, 2, config.temperature or 1.0, step=0.05, label="Temperature", interactive=bool(config.do_sample)
            )
            self.recorders = list(self._recorders())

    def _recorders(self) -> Iterator[tuple[str, gr.components.Component, Callable]]:
        for name in self.modalities:
            kind = next((kind for kind in _RECORDERS if isinstance(MODALITIES[name], kind)), None)
            if kind is not None:
                device, widget, settings, event = _RECORDERS[kind]
                with gr.Accordion(f"{device}: {name}", open=False):
                    recorder = widget(**settings, show_label=False, label=name)
                yield name, recorder, getattr(recorder, event)

    def _chat(self) -> None:
        cards = [{"text": example.text, "display_text": example.label} for example in self.examples]
        self.chatbot = gr.Chatbot(
            show_label=False,
            scale=1,
            examples=cards or None,
            placeholder=(
                f"### {in_markdown(self.name)}\nAttach files below, then ask. Settings, microphone and camera: at the left."
            ),
            allow_tags=False,
            feedback_options=None,
            buttons=["copy"],
            elem_id="chat",
        )
        self.tray = gr.HTML(visible=False, elem_id="tray")
        with gr.Row(elem_id="attach"):
            self.uploads = [(name, self._upload(MODALITIES[name])) for name in self.modalities]
            self.clear = gr.Button("Remove media", size="sm", variant="stop", visible=False, elem_id="clear")
        with gr.Row(equal_height=True):
            self.box = gr.Textbox(
                placeholder="Your question ...",
                show_label=False,
                container=False,
                scale=6,
                autofocus=True,
                elem_id="box",
            )
            self.send = gr.Button("Send", variant="primary", scale=0, min_width=100, elem_id="send")
            self.stop = gr.Button("Stop", variant="stop", scale=0, min_width=100, visible=False, elem_id="stop")

    def _upload(self, spec: ModalitySpec) -> gr.UploadButton:
        return gr.UploadButton(
            f"Attach {spec.name}",
            file_types=list(spec.suffixes) or None,
            file_count="multiple",
            size="sm",
            elem_id=f"upload-{spec.name}",
        )

    # --- events ----------------------------------------------------------------------------------------------------

    def _events(self) -> None:
        """Functions return the changes: component -> its new value."""
        private: dict[str, Any] = {"api_visibility": "private"}
        tray = [self.session, self.tray, self.clear]
        chat = [*tray, self.chatbot, self.box, self.send, self.stop]
        self.blocks.load(lambda: Session(self.host), None, self.session, **private)
        uploads = [(name, upload, upload.upload) for name, upload in self.uploads]
        for name, widget, event in uploads + self.recorders:
            widget.async_move_resource_to_block_cache = files_alone(widget.async_move_resource_to_block_cache)
            event(partial(self.attach, name, widget), [self.session, widget], [*tray, widget], **private)
        self.clear.click(self.detach, self.session, tray, **private)
        self.chatbot.example_select(self.try_example, self.session, [*tray, self.box], **private)
        sending = gr.on(
            [self.send.click, self.box.submit],
            self.answer,
            [self.session, self.box, self.max_new_tokens, self.temperature, self.greedy],
            chat,
            concurrency_limit=_MAX_WAITING,
            show_progress="minimal",
            show_progress_on=self.chatbot,
            **private,
        )
        self.stop.click(self.interrupt, self.session, queue=False, **private)
        anew = [self.new.click, self.chatbot.clear]
        gr.on(anew, self.restart, self.session, chat, cancels=[sending], **private)
        self.greedy.change(lambda greedy: gr.Slider(interactive=not greedy), self.greedy, self.temperature, **private)

    def attach(self, modality: str, widget: Any, session: Session | None, files: str | list[str] | None) -> dict:
        """Attaches files of a modality, and clears their widget."""
        paths = [files] if isinstance(files, str) else files or []
        parts = [{"type": modality, "path": str(path)} for path in paths]
        return {**self._attach(session or Session(self.host), parts), widget: None}

    def _attach(self, session: Session, parts: list[dict[str, Any]]) -> dict:
        trouble = []
        for part in parts:
            try:
                session.attach(part)
            except ValueError as error:
                trouble.append(str(error))
        return self._tray(session, trouble)

    def detach(self, session: Session | None) -> dict:
        session = session or Session(self.host)
        session.media.clear()
        return self._tray(session)

    def try_example(self, session: Session | None, event: gr.SelectData) -> dict:
        example = self.examples[event.index]
        self.detach(session := session or Session(self.host))
        return {**self._attach(session, example.media), self.box: example.text}

    def answer(
        self, session: Session | None, text: str, max_new_tokens: int, temperature: float, greedy: bool
    ) -> Iterator[dict]:
        """Sends the content of the box, and shows the answer as it comes."""
        session, text = session or Session(self.host), text.strip()
        if not text and not session.media:
            yield {self.box: ""}
            return
        sampling = {"do_sample": False} if greedy else {"do_sample": True, "temperature": temperature}
        steps = session.say(text, max_new_tokens=int(max_new_tokens), **sampling)
        next(steps)
        yield {**self._tray(session), self.chatbot: _messages(session), self.box: "", **self._buttons(busy=True)}
        for _ in steps:
            yield {self.chatbot: _messages(session)}
        yield self._buttons(busy=False)

    def interrupt(self, session: Session | None) -> None:
        if session is not None:
            session.stop()

    def restart(self, session: Session | None) -> dict:
        self.interrupt(session)
        return {**self._tray(Session(self.host)), self.chatbot: [], **self._buttons(busy=False)}

    def _buttons(self, busy: bool) -> dict:
        return {self.send: gr.Button(visible=not busy), self.stop: gr.Button(visible=busy)}

    def _tray(self, session: Session, trouble: Sequence[str] = ()) -> dict:
        """The attached media, errors about others, and the button that removes them."""
        notes = "".join(f"<p class=trouble>{html.escape(text)}</p>" for text in trouble)
        pictures = "".join(picture for _, picture in session.media)
        tray = gr.HTML(f"{notes}<div class=media>{pictures}</div>", visible=bool(notes or pictures))
        return {self.session: session, self.tray: tray, self.clear: gr.Button(visible=bool(pictures))}


def _messages(session: Session) -> list[dict[str, Any]]:
    """The chat in gradio's format."""
    messages = []
    for turn in session.shown:
        pictures = f"<div class=media>{turn.pictures}</div>" if turn.pictures else ""
        words = f"<p class=said>{html.escape(turn.text)}</p>" if turn.text else ""
        messages.append({"role": "user", "content": gr.HTML(pictures + words, padding=False)})
        messages += [{"role": "assistant", "content": content} for content in _answer(turn)]
    return messages


def _answer(turn: Turn) -> list[Any]:
    """The visible part of an answer; empty before it begins."""
    if turn.error is not None:
        return [gr.HTML(f"<p class=trouble>{html.escape(turn.error)}</p>", padding=False)]
    if turn.final is None:
        return [turn.answer] if turn.answer.strip() else []
    return [turn.final or "*(The answer is empty.)*"]
