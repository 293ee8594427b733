"""The attacks of `benchmarks/reliability`: each is survived, what is not is counted, and the page shows what was counted."""

import json

import pytest


pytest.importorskip("soundfile")
pytest.importorskip("av")
pytest.importorskip("prometheus_client")

from benchmarks.reliability import __main__ as reliability  # noqa: E402
from benchmarks.reliability import page  # noqa: E402
from benchmarks.reliability.attack import Attack, Outcome  # noqa: E402

from modeling_tests.docs import lines, pages  # noqa: E402


QUICK = ("FlippedStores", "FullDisk", "JsonFiles")
# The soak is a slow test of the server.
TRIED = [name for name in reliability.ATTACKS if name != "Soak"]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in TRIED])
def test_an_attack_is_survived(name):
    result = reliability.run(name, 3, seed=1, most_seconds=60)
    assert result["tried"] and result["survived"] == result["tried"], result["failed"]


class EveryOther(Attack):
    name, full = "every other", 4
    tried = 0

    def attempt(self, rng):
        self.tried += 1
        return Outcome(self.tried % 2 == 0, "lost" if self.tried % 2 else "held", f"number {self.tried}")


def test_what_is_lost_is_counted_and_shown(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(reliability.ATTACKS, "EveryOther", EveryOther)
    result = reliability.run("EveryOther", 5, seed=0, most_seconds=60)
    assert (result["tried"], result["survived"], result["failed"][0]) == (5, 2, "lost: number 1")
    assert "EveryOther: lost: number 5" in capsys.readouterr().out
    (tmp_path / "EveryOther.json").write_text(json.dumps(result))
    text = tmp_path / "page.md"
    text.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write(text, tmp_path, reliability.ATTACKS)
    row = "| every other | 5 | 4 | 2 | 3 lost; 2 held |"
    assert text.read_text().splitlines()[-3:] == [row, page.END, "after"] and "old" not in text.read_text()


def test_the_page_has_a_table_and_its_lines_are_read():
    assert page.BEGIN in pages()["reliability.md"].read_text() and page.END in pages()["reliability.md"].read_text()
    found = [words[3:] for words in lines("python") if words[1:3] == ["-m", "benchmarks.reliability"]]
    assert found
    for words in found:
        reliability.parser().parse_args(words)
