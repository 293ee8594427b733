"""`docs/evaluation.md`: its block of benchmarks and their lines run on files that are laid out as the benchmarks' own."""

import csv
import json
import runpy
from pathlib import Path

import pytest
import soundfile

from anymodality.cli import main
from modeling_tests import tiny
from modeling_tests.docs import block, lines
from transformers_anymodality.evaluation import read_answers, read_results


pytest.importorskip("sacrebleu")
pytest.importorskip("rapidfuzz")
SPOKEN = {
    "BAC009S0764W0121": "甚至 出现 交易 几乎 停滞 的 情况",
    "BAC009S0764W0122": "一二 线 城市 虽然 也 处于 调整 中",
    "BAC009S0765W0121": "但 因为 聚集 了 过多 公共 资源",
}
CLIPS = {"vfY_TJq7n_U": 130, "-tVvXmBm4n8": 30, "gone_of_2019": 0}


def lay_out(folder: Path) -> None:
    """The benchmarks' folders. A transcript of another set is there, too, and a clip that is not on YouTube any more."""
    root = folder / "data_aishell"
    for i, name in enumerate(SPOKEN):
        file = root / "wav/test" / name[6:11] / f"{name}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, tiny.medium("audio", i), 16_000)
    (root / "transcript").mkdir()
    rows = [f"{name} {text} " for name, text in {**SPOKEN, "BAC009S0002W0122": "而 对 楼市"}.items()]
    (root / "transcript/aishell_transcript_v0.8.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "audiocaps/test").mkdir(parents=True)
    with (folder / "audiocaps/test.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
        rows = [(clip, start, f"A dog barks, {nth} times") for nth in range(5) for clip, start in CLIPS.items()]
        table.writerows([100 + number, *row] for number, row in enumerate(rows))
    for clip in list(CLIPS)[:2]:
        soundfile.write(folder / f"audiocaps/test/{clip}.wav", tiny.medium("audio")[:5_000], 32_000)


def test_benchmarks_of_sound_from_their_own_files(tmp_path, monkeypatch, shared, capsys):
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path)
    Path("block.py").write_text(block("evaluation.md", "AISHELL"), encoding="utf-8")
    runpy.run_path("block.py")
    assert capsys.readouterr().out == "AISHELL-1: 3 of 7176 sentences\nAudioCaps: 2 of 3 clips\n"
    for name, count in (("aishell", 3), ("audiocaps", 2)):
        assert len([json.loads(row) for row in Path(f"{name}.jsonl").read_text("utf-8").splitlines()]) == count
    shared[0].save_pretrained("my-model", processor=shared[1])
    ours = [row[1:] for row in lines("anymodality") if row[-1] in ("aishell.json", "audiocaps.json")]
    assert len(ours) == 2
    for words in ours:
        assert main([*words, "--generation", "max_new_tokens=3"]) in (0, None)

    spoken = {line["id"]: line["references"] for line in read_answers("aishell.json", "aishell")}
    assert spoken == {name: [text] for name, text in SPOKEN.items()}
    assert {"cer", "wer"} <= set(read_results("aishell.json")["tasks"]["aishell"]["metrics"])
    heard = {line["id"]: line["references"] for line in read_answers("audiocaps.json", "anymal_audiocaps")}
    assert heard == {clip: [f"A dog barks, {nth} times" for nth in range(5)] for clip in list(CLIPS)[:2]}
    found = read_results("audiocaps.json")["tasks"]["anymal_audiocaps"]["metrics"]
    assert set(found) == {"cider", "bleu", "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l"}
