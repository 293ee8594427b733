"""Names, captions, answers and data of anybody, in every page, card and log: they are shown, and do nothing.

Each page is written twice, with hostile words and with harmless ones: both have the same tags and attributes.
"""

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from anymodality import cli
from anymodality.plain.inspection import Inspection, ModalityInfo, PartInfo
from anymodality.plain.printing import as_json, in_markdown, visible
from modeling_tests import chat_templates, tiny
from modeling_tests.browser import HOSTILE, Alerts, tab
from transformers_anymodality.data.figures import curves, write_html
from transformers_anymodality.data.showing import as_text, look, write_page
from transformers_anymodality.evaluation.pages import write_rating_page
from transformers_anymodality.hub import Licences, make_card
from transformers_anymodality.training.callbacks import tables


class Structure(HTMLParser):
    """Tags with the names of their attributes, and all text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, [name for name, _ in attrs]))

    def handle_endtag(self, tag):
        self.tags.append(("/" + tag, []))

    def handle_comment(self, data):
        self.tags.append(("comment", []))

    def handle_data(self, data):
        self.text += data


def check_pages(hostile, harmless, *shown):
    found = Structure(hostile)
    assert found.tags == Structure(harmless).tags
    for text in shown:
        assert "".join(text.split()) in "".join(found.text.split())


def outside_scripts(page):
    """Boxes of tokens are as many as there are tokens."""
    tags = [tag for tag in Structure(page).tags if tag[0] not in ("span", "/span")]
    return tags


@pytest.fixture(scope="module")
def processor():
    return chat_templates.processor("chatml", "bytes")


def page_of_sample(said, processor, folder):
    """A page on which the words are text, an id, and the name of a file. Returns its path, and the sample."""
    file = folder / (said.replace("/", "_").replace("\n", " ")[:60] + ".png")
    Image.fromarray(tiny.medium("image")).save(file)
    content = [{"type": "image", "path": str(file)}, {"type": "text", "text": said}]
    answer = {"role": "assistant", "content": said}
    record = {
        "id": said,
        "messages": [{"role": "system", "content": said}, {"role": "user", "content": content}, answer],
    }
    shown = look(record, processor)
    write_page(folder / "sample.html", [shown], processor, title=said)
    return folder / "sample.html", shown


def page_of_answers(said, processor, folder):
    """A page that asks for ratings, on which the words are everything. Returns its path."""
    line = {"id": said, "index": 0, "references": [said], "question": said, "answer": said, "rating": said}
    sample = SimpleNamespace(where=said, messages=[{"role": "user", "content": said}])
    task = SimpleNamespace(rating=SimpleNamespace(choices={said: said}))
    job = SimpleNamespace(name=said, task=task, sample=lambda index: sample)
    settings = {"weights": said, "data": said, "generation": {said: said}}
    files = SimpleNamespace(lines=lambda: [line], settings=lambda: settings)
    write_rating_page(folder / "answers.html", job, processor, files)
    return folder / "answers.html"


@pytest.mark.parametrize("words", HOSTILE)
def test_pages_and_lines_of_samples(words, processor, tmp_path):
    pages = []
    for said in (words, "yes"):
        file, shown = page_of_sample(said, processor, tmp_path)
        pages.append(file.read_text())
        for colour in (False, True):
            text = as_text(shown, colour).replace("\x1b[1;32m", "").replace("\x1b[34m", "").replace("\x1b[0m", "")
            assert text == visible(text)
    assert outside_scripts(pages[0]) == outside_scripts(pages[1])
    assert not any(
        name not in ("class", "style") for tag, names in Structure(pages[0]).tags if tag == "span" for name in names
    )
    assert "".join(visible(words).split()) in "".join(visible(Structure(pages[0]).text).split())


@pytest.mark.parametrize("words", HOSTILE)
def test_pages_of_answers(words, processor, tmp_path):
    pages = [page_of_answers(said, processor, tmp_path).read_text() for said in (words, "yes")]
    check_pages(*pages, words)
    data = pages[0].partition("id=data>")[2].partition("</script>")[0]
    assert json.loads(data)["given"] == {json.dumps(words): words}


@pytest.mark.slow
def test_a_browser_runs_none_of_it(processor, tmp_path):
    with tab() as browser:
        alerts = Alerts(browser)
        for words in HOSTILE:
            for page in (page_of_sample(words, processor, tmp_path)[0], page_of_answers(words, processor, tmp_path)):
                browser.goto(page.as_uri())
                alerts.touch()
                assert alerts == [], (words, page.name)


def test_pages_load_nothing_and_run_their_own_script_alone(tmp_path):
    write_html(tmp_path / "a.html", "a", "b", script="c()")
    page = (tmp_path / "a.html").read_text()
    assert "default-src 'none'" in page and "script-src 'sha256-" in page and page.endswith("<script>c()</script>")
    assert "unsafe-inline" not in page.partition("script-src")[2].partition(">")[0]


@pytest.mark.parametrize("words", HOSTILE)
def test_names_of_channels(words):
    values = tiny.medium("imu")[:, :2]
    check_pages(curves(values, [words, "y"]), curves(values, ["x", "y"]), words)


def card_of(said, folder):
    folder.mkdir()
    state = {"global_step": 1, "epoch": 1.0, "train_batch_size": said, "best_metric": said, "log_history": []}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    result = {"task": said, "data": said, "samples": 1, "metrics": {said: 0.5}}
    (folder / "results.json").write_text(json.dumps({"model": said, "tasks": {said: result}}))
    part = PartInfo(said, said, source="org/model", revision=said, trained=True)
    inspection = Inspection(said, [part], [ModalityInfo("image", said, said, said, 1, [])])
    return make_card(
        folder,
        name=said,
        inspection=inspection,
        licences=Licences(whole="mit", parts={said: said}),
        base_models=[],
        recipe=f"a: |\n  {said}\n```\n<script>\n",
    )


@pytest.mark.parametrize("words", HOSTILE)
def test_cards(words, tmp_path, monkeypatch):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    monkeypatch.setattr("transformers_anymodality.hub.card.published_card", lambda source: None)
    cards = [card_of(said, tmp_path / name) for said, name in ((words, "a"), ("yes", "b"))]

    def structure(card):
        blocks = markdown.parse(card.text)
        return [
            (block.type, block.tag, [(one.type, [*one.attrs]) for one in block.children or () if one.type != "text"])
            for block in blocks
        ]

    assert structure(cards[0]) == structure(cards[1])
    again = ModelCard(str(cards[0])).data
    assert again.license == "mit" and again.to_dict().keys() == cards[1].data.to_dict().keys()
    assert cards[0].text == visible(cards[0].text)


@pytest.mark.parametrize("words", HOSTILE)
def test_tables_of_trackers(words, monkeypatch):
    tracker = SimpleNamespace()
    monkeypatch.setattr("transformers_anymodality.training.callbacks.trackers", lambda _: [("tensorboard", tracker)])
    ((table, _),) = tables([{"question": words, "answer": words}], [])
    assert len(table.split("\n")) == 3 and "<s" not in table.replace("\\<", "") and table == visible(table)


@pytest.mark.parametrize("words", HOSTILE)
def test_what_terminals_and_logs_get(words, tmp_path, capsys):
    assert visible(visible(words)) == visible(words) and "\x1b" not in visible(words)
    assert json.loads(as_json({words: [words]})) == {words: [words]} and as_json(words) == visible(as_json(words))
    assert "\n" not in in_markdown(words)
    file = tmp_path / (words.replace("/", "_").replace("\n", " ")[:60] + ".jsonl")
    assert cli.main(["data", "check", str(file), "--processor", str(tmp_path)]) == 1
    told = "".join(capsys.readouterr())
    assert told == visible(told)
