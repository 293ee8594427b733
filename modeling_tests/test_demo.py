"""`anymodality demo`: what its page does without a browser, what it lets through, and a visit by a real browser."""

import ast
import json
import runpy
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anymodality import cli
from modeling_tests import tiny
from modeling_tests.browser import HOSTILE, Alerts, tab


gr = pytest.importorskip("gradio")

from huggingface_hub.utils import httpx  # noqa: E402

from transformers_anymodality.inference.conversation import Conversation  # noqa: E402
from transformers_anymodality.inference.demo import Policy, build_page, export_space, launch  # noqa: E402
from transformers_anymodality.inference.demo.examples import Example, read_examples  # noqa: E402
from transformers_anymodality.inference.demo.page import Page, _messages  # noqa: E402
from transformers_anymodality.inference.demo.running import files_alone  # noqa: E402
from transformers_anymodality.inference.demo.session import Host, Session  # noqa: E402
from transformers_anymodality.modalities import Limits  # noqa: E402


QUESTION = "what is this ?"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """A file of each of four modalities, and one that is none."""
    names = ("photo.png", "depth.png", "walk.csv", "sound.wav", "broken.csv")
    photo, depth, walk, sound, broken = (tmp_path / name for name in names)
    Image.fromarray(tiny.medium("image")).save(photo)
    Image.fromarray((tiny.medium("depth") * 1000).astype(np.uint16)).save(depth)
    np.savetxt(walk, tiny.medium("imu"), delimiter=",", header="ax,ay,az,gx,gy,gz", comments="")
    pytest.importorskip("soundfile").write(sound, tiny.medium("audio"), 16000)
    broken.write_text("a,b\n1,2\n")
    return {"image": photo, "depth": depth, "imu": walk, "audio": sound, "broken": broken}


@pytest.fixture
def page(shared) -> Page:
    model, processor = shared
    return Page(Host(model, processor, Policy(max_media=3)), "tiny", [])


def attach(page: Page, session: Session, modality: str, *paths: Path) -> str:
    """What the tray shows then."""
    widget = dict(page.uploads)[modality]
    changes = page.attach(modality, widget, session, [str(path) for path in paths])
    assert changes[page.session] is session and changes[widget] is None
    return changes[page.tray].value


def ask(page: Page, session: Session, text: str = QUESTION) -> list[dict]:
    return list(page.answer(session, text, 6, 1.0, True))


# --- the page, without a browser --------------------------------------------------------------------------------------


def test_a_widget_for_each_modality_of_the_model():
    model, processor = tiny.composite(settings=tiny.modalities("imu", "image"))
    page = Page(Host(model, processor), "tiny", [])
    assert [(name, widget.file_types) for name, widget in page.uploads][1] == ("imu", [".csv", ".npy", ".parquet"])
    assert [name for name, *_ in page.recorders] == ["image"]


def test_every_modality_is_drawn_and_the_answer_is_the_conversations(page, shared, files):
    session = Session(page.host)
    assert "<figcaption>imu · walk.csv</figcaption>" in attach(page, session, "imu", files["imu"])
    assert attach(page, session, "depth", files["depth"]).count("<figure>") == 2
    assert "<audio" in attach(page, session, "audio", files["audio"])
    parts = [part for part, _ in session.media]
    changes = ask(page, session)
    said = [change[page.chatbot] for change in changes if page.chatbot in change]
    assert len(said[0]) == 1 and len(said) > 2, "what was said is shown at once, and the answer as it comes"
    assert "<svg" in said[0][0]["content"].value and session.media == []
    expected = Conversation(*shared, None, max_new_tokens=6, do_sample=False)
    assert said[-1][1]["content"] == expected.say([*parts, {"type": "text", "text": QUESTION}])
    ask(page, session, "and that ?")
    assert _messages(session)[-1]["content"] == expected.say("and that ?")
    assert [message["role"] for message in _messages(session)] == ["user", "assistant"] * 2


def test_visitors_share_nothing(page, files):
    one, other = Session(page.host), Session(page.host)
    attach(page, one, "image", files["image"])
    ask(page, one)
    assert other.media == other.shown == other.conversation.messages == []
    changes = page.restart(one)
    assert changes[page.session] is not one and changes[page.chatbot] == [] and one.shown


def test_bad_files_are_told_about_and_the_chat_goes_on(page, files):
    session = Session(page.host)
    tray = attach(page, session, "imu", files["broken"], files["imu"])
    assert "class=trouble" in tray and "broken.csv&#x27; lacks the columns" in tray and "walk.csv" in tray
    assert str(files["broken"].parent) not in tray
    assert "class=trouble" in attach(page, session, "image", files["broken"])
    assert "holds at most 3 media" in attach(page, session, "image", *[files["image"]] * 3)
    assert page.detach(session)[page.tray].visible is False
    ask(page, session)
    assert session.shown[-1].error is None


def test_long_paths_are_not_told_either(page, files, tmp_path):
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    tray = attach(page, Session(page.host), "imu", shutil.copy(files["broken"], folder))
    assert "broken.csv&#x27; lacks" in tray and "long" not in tray


def test_limits_hold(shared, files):
    model, processor = shared
    page = Page(Host(model, processor, Policy(Limits(max_pixels=100))), "tiny", [])
    assert "class=trouble" in attach(page, Session(page.host), "image", files["image"])


def test_what_is_typed_or_named_is_no_html(page, files, tmp_path):
    session = Session(page.host)
    odd = shutil.copy(files["image"], tmp_path / "<b>&.png")
    assert "&lt;b&gt;&amp;.png" in attach(page, session, "image", odd)
    ask(page, session, "<image> <script>this")
    assert "&lt;image&gt; &lt;script&gt;this" in _messages(session)[0]["content"].value


def test_an_answer_that_fails_is_told_about_and_the_chat_goes_on(page, files, monkeypatch):
    session = Session(page.host)
    attach(page, session, "image", files["image"])
    files["image"].unlink()
    ask(page, session)
    shown = _messages(session)[-1]["content"].value
    assert "photo.png" in shown and "class=trouble" in shown and str(files["image"].parent) not in shown
    ask(page, session)
    assert session.shown[-1].error is None and len(session.conversation.messages) == 2
    assert ask(page, session, "  ") == [{page.box: ""}]


def test_an_answer_is_stopped(page):
    session = Session(page.host)
    steps = session.say(QUESTION, max_new_tokens=200, do_sample=False, min_new_tokens=200)
    next(steps), next(steps)
    session.stop()
    list(steps)
    words = session.conversation.messages[-1]["content"].split()
    assert 0 < len(words) < 200 and not page.host.answering.locked()


def test_who_waits_can_stop_too(page):
    session = Session(page.host)
    with page.host.answering:
        steps = session.say(QUESTION)
        next(steps)
        threading.Timer(0.1, session.stop).start()
        list(steps)
    assert "Stopped" in session.shown[-1].error and session.conversation.messages == []


def test_large_media_are_files_and_small_ones_in_the_page(page):
    session = Session(page.host)
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    session.attach({"type": "image", "image": noise})
    ((_, picture),) = session.media
    assert "gradio_api/file=" in picture and "data:" not in picture


# --- examples ---------------------------------------------------------------------------------------------------------


def test_examples_can_be_tried(page, files):
    assert page.examples == [], "none, rather than some that no model can answer"
    page.examples = [Example([{"type": name, "path": str(files[name])}], QUESTION) for name in ("image", "imu")]
    for index in range(2):
        changes = page.try_example(session := Session(page.host), type("Event", (), {"index": index}))
        assert "trouble" not in changes[page.tray].value and changes[page.box] == QUESTION
        assert len(session.media) == 1


def test_a_depth_map_that_is_attached_as_an_image_is_refused_with_a_hint(page, files):
    assert "would be black" in (tray := attach(page, Session(page.host), "image", files["depth"]))
    assert "(depth, temperature)" in tray


def chats(folder: Path, *contents) -> Path:
    lines = (json.dumps({"messages": [{"role": "user", "content": content}]}) for content in contents)
    (folder / "chats.jsonl").write_text("\n".join(lines))
    return folder / "chats.jsonl"


def test_examples_from_a_file(shared, files, tmp_path):
    parts = [{"type": "image", "path": "photo.png"}, {"type": "depth", "path": str(files["depth"])}]
    file = chats(tmp_path, [*parts, {"type": "text", "text": " that ? "}], "yes")
    found = read_examples(file, shared[1])
    assert [example.label for example in found] == ["image + depth · that ?", "yes"]
    assert found[0].media[0]["path"] == str(files["image"].resolve())
    for content, message in (
        ([{"type": "image", "path": "gone.png"}], ": .*gone.png' does not exist"),
        ([{"type": "smell", "path": "photo.png"}], ": .*type 'smell', but this model takes .*image"),
        ([{"type": "image"}], " has 1 <image> placeholders, but 0 media"),
    ):
        with pytest.raises(ValueError, match=f"Sample 0{message}"):
            read_examples(chats(tmp_path, content), shared[1])


# --- a running page ---------------------------------------------------------------------------------------------------


def run(model, processor, **options) -> tuple[gr.Blocks, str]:
    page = build_page(model, processor, "tiny", **options)
    return page, launch(page, max_megabytes=1, wait=False)


def test_a_running_page_gives_away_no_files_and_fetches_nothing(shared, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    page, address = run(*shared)
    try:
        with httpx.Client(base_url=address, trust_env=False, timeout=60) as client:
            answer = client.get("/")
            assert answer.status_code == 200 and "default-src 'self'" in answer.headers["content-security-policy"]
            for path in (f"file={secret}", "file=/etc/passwd", "file=http://127.0.0.1/", "proxy=https://a.hf.space/"):
                assert client.get(f"/gradio_api/{path}").status_code in (403, 404), path
            assert client.get("/", headers={"Host": "example.org"}).status_code == 400
            assert client.get("/gradio_api/info").json()["named_endpoints"] == {}
            assert ".trouble{" in client.get("/config").json()["css"]
            uploads = {name: client.post("/gradio_api/upload", files={"files": (name, b"0" * size)})
                       for name, size in (("small", 1000), ("large", 2 * 1024**2))}  # fmt: skip
            assert uploads["small"].status_code == 200 and uploads["large"].status_code == 413
    finally:
        page.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1/a.png", "https://example.org/a.png", "file:///etc/passwd"])
def test_urls_are_no_files(url):
    import asyncio

    with pytest.raises(gr.Error, match="URLs are not fetched"):
        asyncio.run(files_alone(None)(url))


# --- a Space, and the command -----------------------------------------------------------------------------------------


def test_an_exported_space_builds_its_page(shared, files, tmp_path, monkeypatch):
    model, processor = shared
    model.save_pretrained(tmp_path / "tiny")
    processor.save_pretrained(tmp_path / "tiny")
    file = chats(tmp_path, [{"type": "image", "path": "photo.png"}, {"type": "text", "text": QUESTION}])
    written = export_space(str(tmp_path / "tiny"), tmp_path / "space", system_prompt="small", examples=file)
    assert [path.relative_to(tmp_path / "space").as_posix() for path in written] == [
        "README.md",
        "app.py",
        "examples.jsonl",
        "media/000.png",
        "requirements.txt",
    ]
    monkeypatch.chdir(tmp_path / "space")
    assert isinstance(runpy.run_path("app.py")["page"], gr.Blocks)
    with pytest.raises(FileExistsError, match="not empty"):
        export_space("org/anymal", tmp_path / "space")


def test_the_command_exports_for_the_hub(tmp_path, capsys):
    assert cli.main(["export", "space", "org/anymal", "--output", str(tmp_path / "space")]) == 0
    assert "app.py" in capsys.readouterr().out
    yaml = pytest.importorskip("yaml")
    metadata = yaml.safe_load((tmp_path / "space/README.md").read_text().split("---")[1])
    assert metadata["sdk"] == "gradio" and metadata["models"] == ["org/anymal"] and metadata["app_file"] == "app.py"
    assert metadata["sdk_version"] == gr.__version__
    app = (tmp_path / "space/app.py").read_text()
    ast.parse(app)
    assert '"org/anymal"' in app
    assert "demo" in (tmp_path / "space/requirements.txt").read_text()


def test_a_module_of_ones_own_goes_along(tmp_path, monkeypatch):
    (tmp_path / "our_senses.py").write_text("here = True\n")
    (tmp_path / "our_towers").mkdir()
    (tmp_path / "our_towers/mine.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for module, file in (("our_senses", "our_senses.py"), ("our_towers.mine", "our_towers/mine.py")):
        export_space("org/anymal", tmp_path / f"space_{module}", module=module)
        assert (tmp_path / f"space_{module}" / file).exists()
        assert f"import {module}" in (tmp_path / f"space_{module}/app.py").read_text()
    with pytest.raises(ModuleNotFoundError, match="our_smells"):
        export_space("org/anymal", tmp_path / "space", module="our_smells")


# --- a browser --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_visit(shared, files, tmp_path):
    """Upload, ask, answer, second turn, a bad file, an example; nothing comes from elsewhere."""
    example = [{"type": "image", "path": "photo.png"}, {"type": "text", "text": "What is this?"}]
    page, address = run(*shared, examples=chats(tmp_path, example))
    try:
        with tab() as browser:
            visit(browser, address, files)
            browser.screenshot(path=tmp_path / "page.png")
    finally:
        page.close()


@pytest.mark.slow
def test_a_browser_runs_nothing_that_is_said_or_named(shared, files, tmp_path, monkeypatch):
    """Hostile words as the model's name, an example, a file's name, a question, and the model's answer."""
    monkeypatch.setattr(Conversation, "say", lambda self, content, on_text: on_text(words) or words)
    words = "\n\n".join(HOSTILE)
    example = [{"type": "text", "text": words}]
    page = build_page(*shared, words, examples=chats(tmp_path, example))
    odd = shutil.copy(files["image"], tmp_path / "<img src=x onerror=alert(1)>.png")
    try:
        address = launch(page, max_megabytes=1, wait=False)
        with tab() as browser:
            alerts = Alerts(browser)
            browser.goto(address)
            browser.wait_for_selector("#chat .example")
            alerts.touch()
            with browser.expect_file_chooser() as chooser:
                browser.click("#upload-image")
            chooser.value.set_files(odd)
            browser.wait_for_selector("#tray figure")
            browser.fill("#box textarea", words)
            browser.click("#send")
            browser.wait_for_selector("#chat .bot-row")
            browser.wait_for_selector("#send", state="visible")
            alerts.touch()
            assert alerts == []
            assert "onerror=alert(1)" in browser.locator("#chat .user-row").inner_text()
    finally:
        page.close()


def visit(tab, address: str, files: dict[str, Path]) -> None:
    elsewhere = []
    own = (address, "data:", "blob:")
    tab.on("request", lambda request: request.url.startswith(own) or elsewhere.append(request.url))

    def upload(modality: str, path: Path) -> None:
        with tab.expect_file_chooser() as chooser:
            tab.click(f"#upload-{modality}")
        chooser.value.set_files(path)

    def answers(count: int) -> None:
        tab.wait_for_function(f"document.querySelectorAll('#chat .bot-row').length == {count}")
        tab.wait_for_selector("#send", state="visible")
        assert all(tab.locator("#chat .bot-row").all_inner_texts())

    tab.goto(address)
    for count, modality in enumerate(("image", "imu", "depth"), 1):
        upload(modality, files[modality])
        tab.wait_for_function(f"document.querySelectorAll('#tray figure').length == {count}")
    tab.fill("#box textarea", f"<image> {QUESTION}")
    tab.click("#send")
    answers(1)
    assert tab.locator("#chat .user-row figure").count() == 3 and tab.locator("#tray figure").count() == 0
    assert f"<image> {QUESTION}" in tab.locator("#chat .user-row").inner_text()

    upload("imu", files["broken"])
    assert "broken.csv' lacks the columns" in tab.locator("#tray .trouble").inner_text()
    tab.fill("#box textarea", "and that ?")
    tab.press("#box textarea", "Enter")
    answers(2)

    tab.click(".toggle-button")  # the side bar is closed at first
    tab.click("#new")
    tab.click("#chat .example >> nth=0")
    tab.wait_for_selector("#tray figure")
    tab.wait_for_function("document.querySelector('#box textarea').value == 'What is this?'")
    assert elsewhere == []
