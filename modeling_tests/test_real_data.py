"""`examples/real`: made-up files in each format that package indexes carry become data sets; nothing leaks."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from transformers_anymodality.data.records import read_chat
from transformers_anymodality.modalities import MODALITIES, MediaError
from transformers_anymodality.modalities.signal import read_signal


def test_what_is_named_alike_is_on_one_side(real):
    captions = ["A bison.", "An American bison.", "Bison", "A yak.", "The moon.", "A red moon!", "A kite."]
    names = [real.splits.normalised(caption) for caption in captions]
    assert names[:3] == ["bison", "american bison", "bison"]
    groups = ["animals"] * 4 + ["space", "toys", "toys"]
    cluster = real.splits.clusters(names, groups)
    assert cluster[0] == cluster[1] == cluster[2]
    assert len(set(cluster)) == 5  # a moon of another group is another
    assert len(set(real.splits.clusters(names, groups, [[None, None, None, "x", "y", "z", "x"]]))) == 4
    many = real.splits.assign(list(range(200)))
    assert {split: many.count(split) for split in many} == {"train": 140, "validation": 20, "test": 40}
    assert many == real.splits.assign(list(range(200)))
    assert set(real.splits.assign([0] * 30 + list(range(1, 71)))[:30]) == {"train"}


def sound(file: Path, seed: int = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.random.default_rng(seed).uniform(-0.5, 0.5, (900, 2)), 44100)


def picture(file: Path, seed: int, mode: str = "RGBA") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(file)


THINGS = "badger bell boat cake chair clock cloud crab drum eagle frog guitar hammer hat horn key lamp lion mouse owl".split()


def make_stamps(raw: Path) -> None:
    root = raw / "usr" / "share" / "tuxpaint" / "stamps"
    for i, thing in enumerate(THINGS):
        folder = root / ("animals" if i % 2 else "things") / "inner"
        picture(folder / f"{thing}.png", i, "P" if i % 3 == 0 else "RGBA")
        (folder / f"{thing}.txt").write_text(f"A {thing}.\nes.utf8=Un {thing}.\nxx.utf8=Nothing.\nfr.utf8=\n")
        sound(folder / f"{thing}_desc_es.ogg", i)
        if i % 4 == 0:
            sound(folder / f"{thing}.ogg", 100 + i)
            sound(folder / f"{thing}_desc.ogg", 200 + i)
    (root / "animals" / "lion2.svg").write_text("<svg/>")
    (root / "animals" / "lion2.txt").write_text("The lion")
    picture(root / "symbols" / "7.png", 50)
    sound(root / "symbols" / "7.ogg", 51)
    (root / "symbols" / "7.txt").write_text("Seven.")
    (root / "symbols" / "alone.txt").write_text("Neither picture nor drawing.")


def test_stamps_are_split_by_caption(real, tmp_path):
    make_stamps(tmp_path)
    splits = real.stamps.load(tmp_path)
    stamps = {stamp["id"]: (split, stamp) for split, items in splits.items() for stamp in items}
    assert len(stamps) == len(THINGS) + 2 and all(splits.values())
    assert stamps["animals/lion2"][0] == stamps["animals/inner/lion"][0]
    assert stamps["animals/lion2"][1]["image"] is None
    assert stamps["symbols/7"][1]["sound"] is None  # it is a spoken word
    badger = stamps["things/inner/badger"][1]
    assert badger["captions"] == {"en": "A badger.", "es": "Un badger."} and set(badger["speech"]) == {"en", "es"}
    assert badger["sound"].endswith("badger.ogg") and badger["category"] == "things"
    assert splits == real.stamps.load(tmp_path)


def test_pairs_are_balanced_so_that_neither_medium_tells_alone(real, tmp_path):
    make_stamps(tmp_path)
    splits = real.stamps.load(tmp_path)
    for split, pairs in real.stamps.pairs(splits).items():
        inside = {stamp["image"] for stamp in splits[split]}
        assert {pair["image"] for pair in pairs} <= inside
        for kind in {pair["kind"] for pair in pairs}:
            own = [pair for pair in pairs if pair["kind"] == kind]
            yes = [pair for pair in own if pair["same"]]
            if len(own) > 1:
                assert 2 * len(yes) == len(own)
                for medium in ("image", "audio"):
                    assert sorted(pair[medium] for pair in yes) == sorted(
                        pair[medium] for pair in own if not pair["same"]
                    )
        assert all(pair["same"] == (pair["caption"] == pair["heard"]) for pair in pairs)


def test_noise_hides_most_and_is_the_same_each_time(real, tmp_path):
    make_stamps(tmp_path / "raw")
    splits = real.stamps.load(tmp_path / "raw")
    first = real.noise.load(splits, tmp_path / "noisy", "es")
    items = [item for split in first.values() for item in split]
    assert items and all(Path(item["noisy_image"]).is_file() for item in items)
    for item in items:
        shown = np.asarray(Image.open(item["noisy_image"]))
        hidden = np.all(shown == 128, axis=-1).reshape(4, 32, 4, 32).all((1, 3))
        assert hidden.sum() >= real.noise.HIDDEN
    before = Path(items[0]["noisy_audio"]).read_bytes()
    assert real.noise.load(splits, tmp_path / "noisy", "es") == first
    assert (
        real.noise.load(splits, tmp_path / "again", "es")
        and before == (tmp_path / "again" / Path(items[0]["noisy_audio"]).name).read_bytes()
    )


def test_recordings_have_transcripts_where_their_names_are_exact(real, tmp_path):
    names = "digits/7 digits/mon-0 letters/z letters/zed phonetic/9_p phonetic/x_p goodbye beep silence/1".split()
    for name in names:
        sound(tmp_path / "usr" / "share" / "asterisk" / "sounds" / "en" / f"{name}.wav")
    splits = real.recordings.load(tmp_path)
    texts = {item["id"]: item["text"] for item in splits["test"]}
    assert texts == {
        "digits/7": "seven",
        "digits/mon-0": "January",
        "letters/z": "Z",
        "phonetic/9_p": "niner",
        "phonetic/x_p": "x-ray",
    }
    assert [item["id"] for item in splits["unlabelled"]] == ["goodbye", "letters/zed"]
    assert "text" not in splits["unlabelled"][0] and "train" not in splits


def test_texts_for_synthetic_voices_keep_away_from_other_splits(real):
    texts = real.sentences.texts(400, ["A hat.", "A red ball.", "A hat."], ["A map.", "Seven!", "A red ball"])
    assert texts == real.sentences.texts(400, ["A hat.", "A red ball.", "A hat."], ["A map.", "Seven!", "A red ball"])
    kinds = Counter(kind for kind, _ in texts)
    assert kinds["caption"] == 1 and set(kinds) == {
        "caption",
        "sentence",
        "number",
        "digits",
        "letters",
        "phonetic",
        "date",
    }
    said = [real.splits.normalised(text) for _, text in texts]
    assert not {"map", "seven", "red ball"} & set(said) and not any("red ball" in text for text in said)
    assert any("map" in text for text in said)  # a word may be said; the caption as it stands may not


def test_voices_speak_once_and_are_left_out_where_they_are_not(real, tmp_path, monkeypatch, capsys):
    assert real.voices.load(tmp_path / "none", None, None) == {"train": []}
    spoken = []
    monkeypatch.setattr(real.voices, "_speak", lambda clips, espeak, flite: spoken.append((clips, espeak, flite)))
    first = real.voices.load(tmp_path / "voices", None, tmp_path, ["A hat."], count=60)
    assert {clip["voice"] for clip in first["train"]} <= {f"flite-{name}" for name in real.voices.FLITE}
    assert real.voices.load(tmp_path / "voices", None, tmp_path) == first and len(spoken) == 1
    both = real.voices.load(tmp_path / "both", tmp_path, tmp_path, count=200)["train"]
    assert {clip["voice"] for clip in both if clip["kind"] == "letters"} <= set(real.voices.ESPEAK)
    assert len({clip["voice"] for clip in both}) == len(real.voices.ESPEAK) + len(real.voices.FLITE)
    assert "60 clips of 4 voices" in capsys.readouterr().out


def test_unlabelled_speech_is_written_down_once_without_what_the_test_says(real, tmp_path, monkeypatch):
    texts = {"hello": "Hello there.", "seven": "Seven!", "figure": "Press 1.", "round": "no " * 40, "none": " ..."}
    for name in texts:
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(16_000), 16_000)
    soundfile.write(tmp_path / "long.wav", np.zeros(9 * 16_000), 16_000)
    asked = []

    def written(hearing, files, fast):
        asked.append(files)
        return [texts[Path(file).stem] for file in files]

    monkeypatch.setattr(real.dictation, "transcribe", written)
    unlabelled = [{"audio": str(tmp_path / f"{name}.wav"), "kind": "phrase"} for name in (*texts, "long")]
    given, file = {"test": [{"text": "seven"}], "unlabelled": unlabelled}, tmp_path / "dictation.jsonl"
    assert real.dictation.load(given, {}, file) == []
    found = real.dictation.load(given, {"hearing": tmp_path}, file)
    assert [item["text"] for item in found] == ["Hello there."] and found[0]["kind"] == "phrase"
    assert real.dictation.load(given, {"hearing": tmp_path}, file) == found and len(asked) == 1 and len(asked[0]) == 5


def make_watch(raw: Path) -> None:
    """As seglearn has it: a pickled dict."""
    rng, lengths = np.random.default_rng(0), [520] * 10
    data = {
        "X": [rng.normal(0, 1, (length, 6)) for length in lengths],
        "y": np.arange(10) % 7,
        "subject": np.arange(1, 11),
        "side": np.array([0.0, 1.0] * 5),
        "X_labels": ["ax", "ay", "az", "wx", "wy", "wz"],
        "y_labels": ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"],
    }
    raw.mkdir(parents=True, exist_ok=True)
    np.save(raw / "watch_dataset.npy", data, allow_pickle=True)


def test_watch_data_are_windows_in_the_units_of_this_package(real, tmp_path):
    make_watch(tmp_path / "raw")
    splits = real.motion.load(tmp_path / "raw", tmp_path / "watch")
    assert {split: len(items) for split, items in splits.items()} == {"train": 14, "validation": 2, "test": 4}
    subjects = [{item["subject"] for item in items} for items in splits.values()]
    assert not subjects[0] & subjects[1] | subjects[0] & subjects[2] | subjects[1] & subjects[2]
    item = splits["train"][1]
    assert (item["exercise"], item["side"], item["subject"]) == ("pendulum", "left", 1)
    raw = np.load(tmp_path / "raw" / "watch_dataset.npy", allow_pickle=True).item()["X"][0][250:500]
    read = read_signal(item["imu"], MODALITIES["imu"].channels, real.motion.RATE)
    np.testing.assert_allclose(read, raw * ([9.80665] * 3 + [1] * 3), atol=1e-4)
    with pytest.raises(MediaError, match="nothing is ever unpickled"):
        read_signal(str(tmp_path / "raw" / "watch_dataset.npy"), MODALITIES["imu"].channels, real.motion.RATE)


def make_emoji(raw: Path) -> None:
    entries = []
    for i, thing in enumerate(["MAN RUNNING", "WOMAN RUNNING", *(thing.upper() for thing in THINGS)]):
        code, category = f"1F{i:03}", "People & Body" if i < 2 else "Objects"
        picture(raw / "package" / "img" / "google" / "64" / f"{code.lower()}.png", i, "LA")
        more = {"unified": code, "image": f"{code.lower()}.png", "has_img_google": True}
        entries.append({"name": thing, "category": category, "subcategory": "all", **more})
    entries.append({**entries[0], "unified": "2B50-FE0F", "image": "gone.png"})
    entries.append({**entries[0], "unified": "1F3FB", "category": "Component"})
    (raw / "package" / "emoji.json").write_text(json.dumps(entries))


def make_tags(raw: Path) -> None:
    (raw / "package" / "data").mkdir(parents=True)
    one = {"hexcode": "1F002", "annotation": "a badger", "tags": "animal, grey", "openmoji_tags": "wood"}
    (raw / "package" / "data" / "openmoji.json").write_text(json.dumps([one]))


def test_emoji_have_names_categories_and_tags(real, tmp_path):
    make_emoji(tmp_path / "emoji")
    make_tags(tmp_path / "tags")
    splits = real.emoji.load(tmp_path / "emoji", tmp_path / "tags")
    items = {item["id"]: (split, item) for split, found in splits.items() for item in found}
    assert len(items) == len(THINGS) + 2
    assert items["1F000"][0] == items["1F001"][0]  # a man and a woman who run
    badger = items["1F002"][1]
    assert (badger["name"], badger["tags"]) == ("a badger", ["animal", "grey", "wood"])
    assert items["1F003"][1]["name"] == "bell" and items["1F003"][1]["tags"] == []
    bare = real.emoji.load(tmp_path / "emoji")
    assert {item["name"] for found in bare.values() for item in found} >= {"badger", "man running"}


def test_data_sets_are_written_as_chats_and_what_lacks_parts_is_said(real, tmp_path, monkeypatch, capsys):
    makers = {"stamps": make_stamps, "watch": make_watch, "emoji": make_emoji}
    for name, make in makers.items():
        make(tmp_path / "raw" / name)
    folders = {name: tmp_path / "raw" / name for name in makers}
    monkeypatch.setattr(real.data, "fetch", lambda names, output: real.fetch.Fetched(folders))
    real.data.main(["--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert "recordings: left out, because phrases is missing." in said
    assert "voices: left out, because it has no items." in said
    counts = Counter()
    for file in (tmp_path / "data").iterdir():
        for i, line in enumerate(file.read_text().splitlines()):
            counts[file.stem.rpartition("_")[0]] += 1
            chat = read_chat(i, json.loads(line)).checked()
            assert all(Path(path).is_file() for media in chat.media.values() for path in media)
    assert {"captions", "speech", "translation", "same", "noisy", "senses", "names", "categories", "motion"} <= set(
        counts
    )
    assert counts["captions"] == len(THINGS) + 1 and counts["translation"] == len(THINGS)
    with pytest.raises(ValueError, match="No data set other; there are stamps"):
        real.data.load(["other"])
