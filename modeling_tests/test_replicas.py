"""The replicas' scripts run through, with a hundredth of their steps, and their table says what they found."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest


EXAMPLES = Path(__file__).parents[1] / "examples"
DOCS = EXAMPLES.parent / "docs"
SYSTEMS = ("anymal", "macaw_llm", "mplug_owl", "pandagpt", "x_llm")


@pytest.fixture(scope="module")
def replicas():
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("replicas.__main__")
    sys.path.remove(str(EXAMPLES))


def scores(share: float, count: int = 400) -> np.ndarray:
    return np.arange(count) < share * count


def claim(replicas, measured, control, chance=0.1, **more):
    return replicas.claims.Claim("it", measured, control, chance, "nothing", **more)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_replica_runs(replicas, system, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "replicas"  # one world for all
    replica = replicas.run(system, folder, scale=0.01, seed=1)
    assert replica.claims and replica.logs
    replicas.results.write(folder, [system], 0.01)
    found = json.loads((folder / "results.json").read_text())[system]
    assert list(found["claims"]) == [claim.name for claim in replica.claims]
    assert all(set(row["seeds"]) == {"1"} for row in found["claims"].values())
    assert system in (folder / "index.html").read_text()


def test_every_system_has_a_replica(replicas):
    from transformers_anymodality.systems import SYSTEMS as PRESETS

    assert set(replicas.SYSTEMS) == set(SYSTEMS) == set(PRESETS)


@pytest.mark.parametrize(
    ("better", "measured", "control", "chance", "margin", "holds"),
    [
        ("higher", 0.9, 0.2, 0.1, 0, True),
        ("higher", 0.9, 0.9, 0.1, 0, False),  # no better than the control
        ("higher", 0.9, 0.9, 0.1, -0.03, True),  # need only be as good
        ("higher", 0.9, 0.95, 0.1, -0.03, False),  # it is not
        ("higher", 0.1, 0.0, 0.1, 0, False),  # chance
        ("lower", 0.1, 0.5, 0.9, 0, True),
        ("lower", 0.5, 0.1, 0.9, 0, False),
    ],
)
def test_whether_a_claim_holds(replicas, better, measured, control, chance, margin, holds):
    rng = np.random.default_rng(0)
    seeds = {}
    for seed in range(3):
        sides = [rng.permutation(scores(share)) for share in (measured, control)]
        seeds[seed] = claim(replicas, *sides, chance, better=better, margin=margin)
    row = replicas.claims.pool(seeds)
    assert row["holds"] is holds and row["answers"] == 1200
    assert row["measured"] == pytest.approx(measured) and row["control"] == pytest.approx(control)
    text = replicas.results.table({"system": {"seconds": 1, "claims": {"it": row}}}).splitlines()[2]
    assert f"{measured:.1%}" in text and ("yes" in text) is holds


def test_an_interval_is_as_wide_as_theory_has_it(replicas):
    """Of one seed: the normal interval of a paired difference, and of a ratio of sums."""
    rng = np.random.default_rng(0)
    control = rng.random(1000) < 0.5
    measured = control | (rng.random(1000) < 0.2)  # pairs that go together: much narrower than two samples apart
    row = replicas.claims.pool({0: claim(replicas, measured, control)})
    difference = measured.astype(float) - control
    half = 1.96 * difference.std() / 1000**0.5
    assert row["interval"] == pytest.approx([difference.mean() - half, difference.mean() + half], abs=0.003)

    lengths = rng.integers(1, 9, 1000)
    errors = rng.binomial(lengths, 0.3)
    pairs = np.stack([errors, lengths], 1)
    row = replicas.claims.pool({0: claim(replicas, pairs, pairs, 1.0, better="lower")})
    rate = errors.sum() / lengths.sum()
    half = 1.96 * (errors - rate * lengths).std() / lengths.mean() / 1000**0.5
    assert row["measured"] == pytest.approx(rate)
    assert row["measured_interval"] == pytest.approx([rate - half, rate + half], abs=0.003)
    assert row["interval"] == [0, 0] and not row["holds"]


def test_seeds_that_disagree_widen_the_interval(replicas):
    apart = {seed: claim(replicas, scores(share), scores(0.5)) for seed, share in enumerate((0.3, 0.9, 0.9, 0.3, 0.9))}
    alike = {seed: claim(replicas, scores(0.66), scores(0.5)) for seed in range(5)}
    wide, narrow = (np.ptp(replicas.claims.pool(seeds)["interval"]) for seeds in (apart, alike))
    assert wide > 3 * narrow
    assert not replicas.claims.pool(apart)["holds"] and replicas.claims.pool(alike)["holds"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"control": scores(0.5, 300)}, "same questions"),
        ({"chance": scores(0.5, 300)}, "same questions"),
        ({"better": "more"}, "'higher' or 'lower'"),
        ({"measured": [], "control": []}, r"\(items,\)"),
    ],
)
def test_scores_that_cannot_be_compared_are_an_error(replicas, more, message):
    with pytest.raises(ValueError, match=message):
        claim(replicas, **{"measured": scores(0.5), "control": scores(0.5), **more})


def test_a_seed_that_was_run_is_not_run_again(replicas, tmp_path, monkeypatch):
    """Unless its script or the scale is another; seeds that were run otherwise are not pooled with it."""
    ran = []

    def run(system, output, scale=1.0, seed=0):
        ran.append(seed)
        file = replicas.results.run_file(output, system, seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        chat = {"messages": [{"role": "user", "content": "which ?"}, {"role": "assistant", "content": "one"}]}
        found = claim(replicas, scores(0.9), scores(0.5), examples=[(chat, "one")])
        replica = replicas.claims.Replica([found], {"stage": [{"loss": 2.0}, {"loss": 1.0}]})
        replicas.results.save(file, replica, 3.0, replicas.results.settings(system, scale))

    def main(*arguments: str) -> dict:
        ran.clear()
        monkeypatch.setattr(sys, "argv", ["replicas", "pandagpt", "--output", str(tmp_path), *arguments])
        replicas.main()
        return json.loads((tmp_path / "results.json").read_text())["pandagpt"]["claims"]["it"]

    monkeypatch.setattr(replicas, "run", run)
    monkeypatch.setattr(replicas.torch, "set_num_threads", lambda count: None)
    assert main("--seeds", "2")["answers"] == 800 and ran == [0, 1]
    assert main("--seeds", "3")["answers"] == 1200 and ran == [2]
    assert main("--seeds", "2", "--scale", "0.5")["answers"] == 800 and ran == [0, 1]


def test_what_a_run_rests_on(replicas, tmp_path, monkeypatch):
    """Another docstring or comment is the same code; another number is not."""
    results = replicas.results
    monkeypatch.setattr(results, "HERE", tmp_path / "replicas")
    for folder in ("replicas", "digits_world"):
        (tmp_path / folder).mkdir()
    script = tmp_path / "replicas" / "system.py"
    for file in (tmp_path / "replicas" / "lab.py", tmp_path / "quickstart.py", script):
        file.write_text('"""One."""\nsteps = 1\n')
    first = results.settings("system", 1.0)
    script.write_text('"""Another."""\n\nsteps = 1  # few\n')
    assert results.settings("system", 1.0) == first != results.settings("system", 0.5)
    script.write_text("steps = 2\n")
    assert results.settings("system", 1.0) != first


def test_the_documentation_says_what_was_found(replicas, tmp_path):
    """Its tables are those of the figures beside it, and the command writes both; other systems' figures stay."""
    results, kept = replicas.results, json.loads((DOCS / "replicas.json").read_text("utf-8"))
    assert results.TABLE.findall((DOCS / "replicas.md").read_text("utf-8")) == results.tables(kept)
    assert set(kept) <= set(SYSTEMS)

    for name in ("replicas.json", "replicas.md"):
        (tmp_path / name).write_text((DOCS / name).read_text("utf-8"), "utf-8")
    row = replicas.claims.pool({0: claim(replicas, scores(0.4321, 10_000), scores(0.5, 10_000))})
    new = {"a_system": {"seconds": 1, "claims": {"it": results._rounded(row)}}}
    (tmp_path / "results.json").write_text(json.dumps(new), "utf-8")
    results.write_docs(tmp_path, tmp_path)
    found = json.loads((tmp_path / "replicas.json").read_text("utf-8"))
    assert set(found) == {"a_system", *kept} and kept.items() <= found.items()
    text = (tmp_path / "replicas.md").read_text("utf-8")
    assert results.TABLE.findall(text) == results.tables(found) and "43.2%" in text
