"""Every encoder of images, video, sound and series that `AutoModel` knows, as a tower beside a tiny language model.

What is known to fail is checked too: a listed failure that is gone fails the test.
"""

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from modeling_tests import tiny
from modeling_tests.tiny_own_towers import own_tower_types
from modeling_tests.tiny_tower_types import KINDS
from modeling_tests.tiny_towers import tiny_encoder
from modeling_tests.tower_cases import KNOWN, NAMES, REFUSED, Case, config_of, register_document, run_checks
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.towers._build import _FeatureCounter


@pytest.fixture(scope="module", autouse=True)
def _document():
    register_document()
    yield
    del MODALITIES["document"]


@pytest.mark.parametrize("name", tiny.swept([name for name in NAMES if name not in REFUSED]))
def test_any_tower(name, tmp_path):
    check_tower(name, tmp_path)


@pytest.mark.parametrize("name", [name for name in own_tower_types() if name not in REFUSED])
def test_every_tower_of_this_package(name, tmp_path):
    check_tower(name, tmp_path)


def skip_if_unknown(name):
    if name in KINDS and name not in CONFIG_MAPPING:
        pytest.skip(f"Transformers {transformers.__version__} does not have it.")


def check_tower(name, tmp_path):
    skip_if_unknown(name)
    if name == "dinat":
        pytest.importorskip("natten")
    _, failures = run_checks(name, tmp_path)
    known = KNOWN.get(name, {})
    for check in failures.keys() - known.keys():
        raise failures[check]
    assert not known.keys() - failures.keys(), "passes now: take it out of KNOWN"
    if known:
        pytest.xfail("; ".join(f"{check}: {reason}" for check, reason in known.items()))


@pytest.mark.parametrize("name", REFUSED)
def test_towers_that_cannot_be_read_are_refused(name):
    skip_if_unknown(name)
    with pytest.raises(ValueError, match="The tower of '(image|audio|imu|speech)'"):
        Case(name, *config_of(name)).compose()


def _lengths(counter: _FeatureCounter, *samples: int) -> None:
    for length in samples:
        outputs = {"input_values": torch.empty(1, length, device="meta")}
        assert counter._agreed(outputs) == counter._count(counter.whole, outputs)


def test_one_layer_tells_how_many_features_there_are():
    config = tiny_encoder("wav2vec2")
    counter = _FeatureCounter(config)
    _lengths(counter, 3000, 4100, 5200, 6300)
    assert len(counter.agreed) == 2 and counter.shallow.config.num_hidden_layers == 1 < config.num_hidden_layers


def test_one_layer_that_tells_otherwise_is_not_asked():
    config = tiny_encoder("wav2vec2")
    counter = _FeatureCounter(config)
    strides = [2 * config.conv_stride[0], *config.conv_stride[1:]]
    counter.shallow = _FeatureCounter(type(config)(**{**config.to_dict(), "conv_stride": strides})).whole
    _lengths(counter, 3000, 4100, 5200)
    assert counter.shallow is None
