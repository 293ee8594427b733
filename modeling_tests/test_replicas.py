"""The replicas' scripts run through, with a hundredth of their steps, and their table says what they found."""

import importlib
import json
import sys
from pathlib import Path

import pytest


EXAMPLES = Path(__file__).parents[1] / "examples"
SYSTEMS = ("anymal", "macaw_llm", "mplug_owl", "pandagpt", "x_llm")


@pytest.fixture(scope="module")
def replicas():
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module("replicas.__main__")
    sys.path.remove(str(EXAMPLES))


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_replica_runs(replicas, system, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "replicas"  # one world for all
    replica = replicas.run(system, folder, scale=0.01)
    assert replica.claims and replica.logs
    replicas.claims.write(folder, {system: replica})
    results = json.loads((folder / "results.json").read_text())[system]
    assert list(results) == [claim.name for claim in replica.claims]
    assert all(set(row) == {"measured", "control", "chance", "better"} for row in results.values())
    assert system in (folder / "index.html").read_text()


def test_every_system_has_a_replica(replicas):
    from transformers_anymodality.systems import SYSTEMS as PRESETS

    assert set(replicas.SYSTEMS) == set(SYSTEMS) == set(PRESETS)


@pytest.mark.parametrize(
    ("better", "measured", "control", "chance", "margin", "holds"),
    [
        ("higher", 0.9, 0.2, 0.1, 0.05, True),
        ("higher", 0.9, 0.88, 0.1, 0.05, False),  # no better than the control
        ("higher", 0.9, 0.92, 0.1, -0.03, True),  # need only be as good
        ("higher", 0.12, 0.0, 0.1, 0.05, False),  # chance
        ("lower", 0.1, 0.5, 0.9, 0.05, True),
        ("lower", 0.5, 0.1, 0.9, 0.05, False),
    ],
)
def test_whether_a_claim_holds(replicas, better, measured, control, chance, margin, holds):
    claim = replicas.claims.Claim("it", measured, control, chance, "nothing", better, margin)
    assert claim.holds is holds
    line = replicas.claims.table({"system": replicas.claims.Replica([claim], {})}).splitlines()[2]
    assert f"{measured:.1%}" in line and ("yes" in line) is holds
