"""The Trainer's `use_liger_kernel`: Liger's kernels go into the language model of a composite, or that is refused.

Kernels need a GPU, so a stand-in has Liger's table and look-up, and a forward like Liger's. Liger itself, where it is
installed, runs by Triton's interpreter.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from modeling_tests import tiny
from modeling_tests.training_runs import trainer
from transformers_anymodality import auto, set_trainable


STAND_IN = """
import inspect
import types
from torch.nn.functional import cross_entropy

def apply_liger_kernel_to_llama(rope=True, fused_linear_cross_entropy=True, model=None):
    def forward(self, inputs_embeds=None, attention_mask=None, labels=None, num_items_in_batch=None, **kwargs):
        kwargs.pop("return_dict")
        output = self.model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs)
        logits = self.lm_head(output.last_hidden_state)[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch
        from transformers.modeling_outputs import CausalLMOutputWithPast
        return CausalLMOutputWithPast(loss=loss)

    model.patched = {"rope": rope}
    if fused_linear_cross_entropy:
        model.forward = types.MethodType(forward, model)

MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": apply_liger_kernel_to_llama}

def _apply_liger_kernel_to_instance(model, **kwargs):
    function = MODEL_TYPE_TO_APPLY_LIGER_FN.get(model.config.model_type)
    if function is not None:
        names = inspect.signature(function).parameters
        function(model=model, **{key: value for key, value in kwargs.items() if key in names})
"""


@pytest.fixture
def liger(tmp_path, monkeypatch):
    package = tmp_path / "liger_kernel" / "transformers"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from .monkey_patch import _apply_liger_kernel_to_instance\n")
    (package / "monkey_patch.py").write_text(STAND_IN)
    for name in [name for name in sys.modules if name.partition(".")[0] == "liger_kernel"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("transformers.integrations.liger.is_liger_kernel_available", lambda: True)
    monkeypatch.setattr("transformers.training_args.is_liger_kernel_available", lambda: True, raising=False)
    auto.register()
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "liger_kernel"]:
        del sys.modules[name]


def run(folder, model_type="llama", **kwargs):
    model, processor = tiny.composite(model_type, tiny.modalities("image", "audio", "imu"))
    set_trainable(model, ["aligners", "language_model"], verbose=False)
    one = trainer(model, processor, folder, max_steps=2, **kwargs)
    one.train()
    return one


def test_the_trainer_patches_the_language_model_inside(tmp_path, liger):
    plain = run(tmp_path / "plain")
    patched = run(tmp_path / "patched", use_liger_kernel=True, liger_kernel_config={"rope": False})
    assert patched.model.language_model.patched == {"rope": False}
    losses = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (plain, patched)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(patched.model.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_a_language_model_that_liger_does_not_know_is_refused(tmp_path, liger):
    with pytest.raises(ValueError, match="Liger has no kernels for GPT2LMHeadModel"):
        run(tmp_path, "gpt2", use_liger_kernel=True)


INTERPRETED = """
import torch
from modeling_tests import tiny
from modeling_tests.training_runs import samples
from transformers_anymodality import AnyModalityDataCollator
from liger_kernel.transformers import _apply_liger_kernel_to_instance

model, processor = tiny.composite(settings=tiny.modalities("image", "audio", "imu"))
batch = AnyModalityDataCollator(processor)(samples(4))
outputs = []
for _ in range(2):
    model.zero_grad()
    outputs.append(model.train()(**batch, num_items_in_batch=torch.tensor(9)).loss)
    outputs[-1].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    if len(outputs) == 1:
        expected = gradients
        _apply_liger_kernel_to_instance(model=model, rms_norm=False, swiglu=False)
assert "liger_kernel" in model.language_model.forward.__func__.__module__
torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=1e-5)
assert gradients.keys() == expected.keys()
for name, gradient in gradients.items():
    torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)
"""


@pytest.mark.slow
@pytest.mark.skipif(not (find_spec("liger_kernel") and find_spec("triton")), reason="needs liger-kernel and triton")
def test_liger_itself_gives_the_same_loss_and_gradients():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
