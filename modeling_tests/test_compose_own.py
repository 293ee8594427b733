"""A modality of one's own."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from modeling_tests import composed_parts, tiny
from modeling_tests.composed_parts import Refused
from transformers_anymodality import SignalFeatureExtractor, compose
from transformers_anymodality.modalities import MODALITIES
from transformers_anymodality.towers.imu2clip import Imu2ClipConfig, Imu2ClipModel


modality = composed_parts.modality


ECG = '''\
"""An electrocardiogram: two leads, 100 readings a second, four seconds, read by a small convolution."""
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers_anymodality import SignalSpec, register_modality, register_tower

register_modality(SignalSpec(name="ecg", channels=("lead_1", "lead_2"), sampling_rate=100.0, seconds=4.0))


class EcgConfig(PreTrainedConfig):
    model_type = "ecg_tower"
    hidden_size: int = 12
    patch_size: int = 50


@register_tower
class EcgTower(PreTrainedModel):
    config: EcgConfig
    main_input_name = "input_values"

    def __init__(self, config):
        super().__init__(config)
        self.patches = torch.nn.Conv1d(2, config.hidden_size, config.patch_size, config.patch_size)
        self.post_init()

    def forward(self, input_values, **kwargs):
        return BaseModelOutput(last_hidden_state=self.patches(input_values.transpose(1, 2)).transpose(1, 2).tanh())
'''

USE_ECG = """\
import sys
import torch
import ecg
from transformers import AutoModelForCausalLM, AutoProcessor
model, processor = (auto.from_pretrained(sys.argv[1]) for auto in (AutoModelForCausalLM, AutoProcessor))
part = {"type": "ecg", "path": sys.argv[1] + "/heart.csv"}
inputs = processor.apply_chat_template([[{"role": "user", "content": [part, {"type": "text", "text": " what is this ?"}]}]],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
assert (inputs["input_ids"] == processor.ecg_token_id).sum() == 8
print(model(**inputs).logits[0, -1, :5].tolist())
"""


def test_a_main_input_that_forward_does_not_take_is_refused(monkeypatch):
    monkeypatch.setattr(Imu2ClipModel, "main_input_name", "samples")
    settings = {"imu": {"tower": Imu2ClipConfig(hidden_size=16, conv_channels=8, context_length=350)}}
    message = "`main_input_name` of Imu2ClipModel is 'samples', but its forward takes input_values"
    with Refused(ValueError, message) as refused:
        refused.compose(settings)


def test_a_sub_processor_that_nobody_registered_says_how(tmp_path):
    class Cloud(SignalFeatureExtractor):
        pass

    compose(
        tiny.language_model(),
        {"imu": {"tower": tiny.imu_config(), "processor": Cloud(channels=list("abcdef"), num_samples=64)}},
        tokenizer=tiny.tokenizer(),
    )[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"AutoFeatureExtractor\.register\(YourConfig, Cloud\).*--import MODULE"):
        AutoProcessor.from_pretrained(tmp_path)


def test_a_modality_of_ones_own_in_forty_lines(modality, tmp_path, monkeypatch):
    assert ECG.count("\n") <= 40
    (tmp_path / "ecg.py").write_text(ECG)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ecg", raising=False)
    import ecg

    model, processor = compose(
        tiny.language_model(), {"ecg": {"tower": ecg.EcgConfig(), "aligner": "linear"}}, tokenizer=tiny.tokenizer()
    )
    tiny.spread(model)
    (tmp_path / "saved").mkdir()
    heart = np.sin(np.arange(250)[:, None] / np.array([5, 7])).astype(np.float32)
    np.savetxt(tmp_path / "saved" / "heart.csv", heart, delimiter=",", header="lead_1,lead_2", comments="", fmt="%.9g")
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    inputs = tiny.inputs(
        processor,
        [{"role": "user", "content": [{"type": "ecg", "ecg": heart}, {"type": "text", "text": " what is this ?"}]}],
    )
    assert inputs["ecg_values"].shape == (1, 400, 2)
    expected = model(**inputs).logits[0, -1, :5]
    run = subprocess.run(
        [sys.executable, "-c", USE_ECG, str(tmp_path / "saved")], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    torch.testing.assert_close(
        torch.tensor(json.loads(run.stdout.strip().splitlines()[-1])), expected, atol=1e-5, rtol=1e-4
    )
    monkeypatch.delitem(MODALITIES, "ecg")  # as in a process that does not import the definition
    with pytest.raises(ValueError, match="Unknown modality 'ecg'"):
        AutoProcessor.from_pretrained(tmp_path / "saved")
