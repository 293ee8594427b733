"""`examples/real`: what is asked, how speech is spelt, and how results are counted and shown."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Wav2Vec2FeatureExtractor

from modeling_tests import tiny


class Perceived:
    """Features of made-up media by their paths, in a feature store's place."""

    def __init__(self, model):
        self.model = model

    def inputs(self, processor, media):
        ((name, paths),) = media.items()
        size = self.model.config.aligner_config(name).feature_size
        generators = [torch.Generator().manual_seed(int(path)) for path in paths]
        if name == "image":
            length = self.model.config.modalities[name].feature_length
            return {"image_features": torch.stack([torch.randn(1, length, size, generator=g) for g in generators])}, {}
        features = [torch.randn(12 + i, size, generator=g) for i, g in enumerate(generators)]
        lengths = torch.tensor([len(one) for one in features])
        return {f"{name}_features": torch.cat(features), f"{name}_feature_lengths": lengths}, {}


# --- questions --------------------------------------------------------------------------------------------------------


def sets() -> dict:
    stamp = {
        "image": "f.png",
        "caption": "A frog.",
        "captions": {"es": "Una rana."},
        "speech": {"es": "f.ogg"},
        "cluster": 0,
    }
    emoji = [
        {"image": f"{i}.png", "name": "apple", "category": name} for i, name in enumerate(("Flags", "Symbols") * 5)
    ]
    voices = [{"audio": f"{text}.wav", "text": text, "kind": "numbers"} for text in ("one", "two")]
    pair = {"image": "f.png", "audio": "f.ogg", "kind": "es", "same": True}
    noisy = {"image": "f.png", "noisy_image": "h.png", "noisy_audio": "n.wav", "caption": "A frog."}
    return {
        "stamps": {"train": [stamp]}, "emoji": {"train": emoji}, "voices": {"train": voices},
        "same": {"train": [pair, {**pair, "same": False, "image": "g.png"}, {**pair, "kind": "fr"}]},
        "noisy": {"train": [noisy]},
        "watch": {"train": [{"imu": "a.csv", "exercise": "pendulum", "subject": 1}]},
    }  # fmt: skip


def test_questions_hold_their_answers(real):
    kinds = real.tasks.kinds(sets(), "train", seed=0)
    assert [(q.answer, q.media) for q in kinds["translation"]] == [("A frog.", [("audio", "f.ogg")])]
    assert [q.answer for q in kinds["speech_foreign"]] == ["Una rana."]
    assert [q.answer for q in kinds["yes_or_no"]] == ["Flags. No.", "Symbols. Yes."] * 5
    for question in kinds["yes_or_no"]:
        assert (question.rest["asked"] == question.answer.split(".")[0]) == question.answer.endswith("Yes.")
    assert [q.answer for q in kinds["same"]] == ["Yes.", "No."]  # of the language that is spoken alone
    assert {name for q in kinds["both"] for name, _ in q.media} == {"image", "audio"}
    assert not any(real.tasks.kinds({}, "train", seed=0).values())


def test_exchanged_media_belong_to_another_answer(real):
    questions = real.tasks.kinds(sets(), "train", seed=0)["categories"]
    answers = {question.media[0][1]: question.answer for question in questions}
    for question, other in zip(questions, real.tasks.exchanged(questions), strict=True):
        assert (other.text, other.answer) == (question.text, question.answer)
        assert answers[other.media[0][1]] != question.answer


def test_two_pictures_are_of_two_categories_and_exchanged_together(real):
    questions = real.tasks.kinds(sets(), "train", seed=0)["two_pictures"]
    category = {f"{i}.png": name for i, name in enumerate(("Flags", "Symbols") * 5)}
    for question in questions:
        seen = [category[path] for _, path in question.media]
        (asked,) = (name for name in seen if question.text == real.tasks.which(name))
        assert len(set(seen)) == 2
        assert question.answer == f"{', '.join(seen)}. The {('first', 'second')[seen.index(asked)]}."
    assert len({question.answer for question in questions}) == 4
    for question, other in zip(questions, real.tasks.exchanged(questions, (0, 1)), strict=True):
        assert any(one.media == other.media and one.answer != question.answer for one in questions)


def test_noisy_senses_are_asked_about_alone_as_often(real):
    questions = real.tasks.with_parts(real.tasks.kinds(sets(), "train", seed=0))
    assert [[path for _, path in q.media] for q in questions["noisy"]] == [["f.png", "n.wav"], ["n.wav"]]
    assert [[path for _, path in q.media] for q in questions["senses"]] == [["h.png", "n.wav"], ["n.wav"], ["h.png"]]
    assert {q.answer for q in [*questions["noisy"], *questions["senses"]]} == {"A frog."}


def test_a_mix_goes_through_all_of_a_row_before_any_comes_again(real):
    questions = {"categories": real.tasks.kinds(sets(), "train", seed=0)["categories"], "prose": [{"messages": ["t"]}]}
    records = real.learn.mixed(questions, 30, seed=0)
    shown = [r["messages"][0]["content"][0]["path"] for r in records if r["messages"] != ["t"]]
    assert 0 < len(shown) < 30 and len(set(shown[:10])) == 10


def test_short_questions_are_marked_by_whole_words(real):
    assert real.texts.is_right("It is Paris.", "Paris") and real.texts.is_right("Four legs", "4|four")
    assert not real.texts.is_right("1000", "100") and len(real.texts.SHORT) == 50
    train, held_out = real.texts.split(held_out=50)
    assert len(held_out) == 50 and not {*train} & {*held_out} and len(train) > 50


# --- aligners learn words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["audio", "image"])
def test_an_aligner_alone_learns_words(real, tmp_path, modality):
    audio = {"tower": tiny.wav2vec2_config(), "processor": Wav2Vec2FeatureExtractor(), "aligner": "mlp"}
    model, processor = tiny.composite(**({"settings": {"audio": audio}} if modality == "audio" else {}))
    texts = ("what", "this", "and", "what this")
    questions = [real.tasks.Question("what", text, [(modality, str(i))]) for i, text in enumerate(texts)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    log = real.words.train(model, processor, questions, Perceived(model), tmp_path / "trainer", epochs=300)
    # Of two words without an order, each token says one: half of the probability is the best there is.
    least = 0.0 if modality == "audio" else np.log(2) / 2
    assert log[-1]["loss"] - least < 0.1 * log[0]["loss"]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(f"{modality}_aligner") for name in changed)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_likeliest_answer_does_not_depend_on_its_company(real):
    model, processor = tiny.composite()
    records = [{"messages": tiny.chat("image", "what", answer=answer)} for answer in ("this", "and this", "one")]
    one_by_one = [
        real.answers.likeliest(model, processor, [[records[0], record]], batch=1)[0] for record in records[1:]
    ]
    together = real.answers.likeliest(model, processor, [[records[0], record] for record in records[1:]], batch=4)
    assert together == one_by_one


def test_answers_stand_in_the_order_of_questions(real):
    model, processor = tiny.composite()
    chats = [tiny.chat("image", "what"), tiny.chat("what", "and", "this", "and"), tiny.chat("audio", "what", seed=3)]
    together = real.answers.answer(model, processor, chats, max_new_tokens=5, batch=2)
    assert together == [real.answers.answer(model, processor, [chat], max_new_tokens=5)[0] for chat in chats]
    assert len(set(together)) > 1


# --- results ----------------------------------------------------------------------------------------------------------


def test_a_row_has_its_rival_its_control_and_its_intervals(real):
    wanted = ["a b c d", "e f"] * 40
    said, exchanged = ["a b c d", "e x"] * 40, ["x x x x", "e f"] * 40
    score = real.results.word_errors
    row = real.results.row("wer", score(said, wanted), score(exchanged, wanted), score(wanted, wanted), ("r", "c"))
    assert (row["wer"], row["control"], row["rival"], row["n"]) == (1 / 6, 4 / 6, 0.0, 80)
    assert row["interval"][0] < 1 / 6 < row["interval"][1] and row["rival_interval"] == [0.0, 0.0]
    assert row["over_control"] == pytest.approx(-0.5) and row["over_control_interval"][1] < 0
    same = real.results.row("wer", score(said, wanted), score(said, wanted), None, ("", "c"))
    assert same["over_control_interval"] == [0, 0] and same["rival"] is None


def test_reasons_are_not_marked_but_what_they_lead_to(real):
    said, wanted = ["Food. Yes.", "yes", "Flags. No.", "Flags."], ["Flags. Yes."] * 4
    assert real.results.verdict(said, wanted).tolist() == [[1, 1], [1, 1], [0, 1], [0, 1]]


def test_the_language_model_rehearses_what_it_says_itself(real, monkeypatch):
    model, processor = tiny.composite()
    monkeypatch.setattr(real.texts, "OPENERS", ("what is this ?", "what and"))  # one is a question at once
    said = lambda model, processor, chats, **_: ["This is it. And", *["no end"] * (len(chats) - 1)]  # noqa: E731
    monkeypatch.setattr(real.texts, "answer", said)
    (record,) = real.texts.own_chats(model, processor, count=8, batch=4)  # without answers that were cut off at once
    question, answer = (message["content"][0]["text"] for message in record["messages"])
    assert question.endswith("?") and answer == "This is it."


def test_text_that_is_worse_is_told(real):
    before = {"losses": [(10.0, 10), (22.0, 20)] * 20, "right": [True] * 50}
    after = {"losses": [(11.0, 10), (22.4, 20)] * 20, "right": [True] * 49 + [False]}
    kept = real.examine.text_kept(before, after)
    assert kept["worse_by"] == pytest.approx(np.exp(1.4 / 30) - 1) and 0 < kept["interval"][0] < kept["interval"][1]
    assert (kept["short_questions_before"], kept["short_questions"]) == (50, 49)


def test_four_bits_are_compared_question_by_question(real):
    full = list(np.linspace(1, 2, 50))
    losses = {"4 bits": [one + 0.1 for one in full], "full precision": full, "untaught": [3.0] * 50}
    found = real.four_bits.compared(losses)
    assert found["worse_by"] == pytest.approx(0.1) and found["interval"] == pytest.approx([0.1, 0.1])
    assert (found["control"], found["n"]) == (3.0, 50)


def test_the_table_is_written_where_docs_have_a_place_for_it(real, tmp_path):
    row = real.results.row("accuracy", *[np.array([(1.0, 1)] * 3)] * 3, ("a coin", "another image"))
    kept = real.examine.text_kept(*[{"losses": [(1.0, 1)] * 3, "right": [True]}] * 2)
    found = {"motion": row, "text": kept, "seconds": 60.0, "threads": 2, "versions": {"torch": "2"}}
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- real -->old<!-- /real -->\nafter\n")
    real.page.write_docs(found, [file])
    text = file.read_text()
    assert text.startswith("before\n<!-- real -->") and text.endswith("<!-- /real -->\nafter\n") and "old" not in text
    assert "| Exercises, new subjects | accuracy | 1.000 | 1.000 to 1.000 | 1.000 |" in text
    with pytest.raises(ValueError, match="0 places"):
        (tmp_path / "none.md").write_text("text")
        real.page.write_docs(found, [tmp_path / "none.md"])


def test_the_page_shows_media_answers_and_rivals(real, tmp_path):
    _, processor = tiny.composite()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    questions = [real.tasks.Question("Is it <b>?", "Yes.", [("image", str(tmp_path / "red.png"))])] * 3
    row = real.examine.Row(questions, ["Yes.", "No.", "yes"], ["No."] * 3, ["No."] * 3, "a coin", "another image")
    row.numbers = real.examine._numbers("yes_or_no", row)
    kept = real.examine.text_kept(*[{"losses": [(1.0, 1)] * 3, "right": [True]}] * 2)
    found = {"yes_or_no": row.numbers, "text": kept, "seconds": 60.0}
    parts = [{"name": "p", "version": "1", "licence": "MIT", "use": "u"}]
    file = tmp_path / "index.html"
    real.page.write(
        file, json.loads(json.dumps(found)), {"yes_or_no": row}, {"align": [{"loss": 1.0}]}, processor, parts
    )
    text = file.read_text()
    assert "0.667" in text and "a coin" in text and "Is it &lt;b&gt;?" in text and "data:image/png" in text
    assert text.count("class=card>") == 3 and text.count("<b class=right>") == 2
