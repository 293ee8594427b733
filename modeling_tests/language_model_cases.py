"""Checks of a composite around any text decoder, and which of them fail for which one.

What fails is listed with its reason in `KNOWN`. `test_any_language_model.py` runs the checks, and
`docs/architectures.md` is written from the tables.
"""

import inspect
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.loss.loss_utils import ForCausalLMLoss

from modeling_tests import tiny
from modeling_tests.checks import TIGHT, last_logits
from transformers_anymodality import AnyModalityModel, compose, lora_config, set_trainable


# Model types that cannot be given media, which `compose` says.
REFUSED = {
    "cpmant": "its forward takes ids only, puts a learned prompt before them, and takes id 0 for padding",
}

_PLACES = "numbers positions from the start of the row, padding included, and takes no `position_ids`"
_MASK_DROPPED = "its generation drops the attention mask"
_UNMASKED_STATE = "its recurrent state runs over the padding"

# Model type -> check -> why it fails.
KNOWN: dict[str, dict[str, str]] = {
    **{
        name: {"padding": _PLACES}
        for name in "bart bigbird_pegasus blenderbot blenderbot-small mbart mvp pegasus plbart".split()
    },
    "blt": {
        "growth": "its byte vocabulary is told in the configs of its parts, which growing leaves as they are",
        "generation": "its cached step gives other logits than its whole forward",
        "padding": "it cuts bytes into patches by their entropy, padding included",
    },
    "deepseek_v4": {"padding": "it compresses keys in windows counted from the start of the row, padding included"},
    **{
        name: {"growth": "its `unpadded_vocab_size` stays as it was when its embeddings grow"}
        for name in ("inkling2_loop_text", "inkling2_text")
    },
    "marian": {
        "growth": "its `decoder_vocab_size` stays as it was when its embeddings grow",
        "padding": _PLACES,
    },
    "prophetnet": {
        "generation": "its cached step gives other logits than its whole forward",
        "padding": _PLACES,
    },
    "recurrent_gemma": {"padding": _UNMASKED_STATE},
    "reformer": {
        **dict.fromkeys(("checkpoint", "lora"), "its head names one bias twice, which its own saving refuses"),
        "padding": _MASK_DROPPED,
    },
    "rwkv": {"padding": _UNMASKED_STATE},
    "xlm": {
        "generation": "given embeddings, it does not leave out what its cache holds",
        "padding": "its causal mask does not mask padding",
    },
    "xlnet": {"padding": _MASK_DROPPED},
    "xlstm": {
        "growth": "it names embeddings that it has not when new ones are set",
        "padding": _UNMASKED_STATE,
    },
}

# Their heads do more with the hidden states than one multiplication, so that no tool can put a head in its place.
DEEP_HEADS = (
    "bert big_bird camembert data2vec-text electra ernie megatron-bert modernbert-decoder prophetnet rembert roberta "
    "roberta-prelayernorm roc_bert roformer xlm xlm-roberta xlm-roberta-xl xmod"
).split()

# Checks that a language model may fail without any media, and then fails within a composite too.
OF_THE_LANGUAGE_MODEL = ("generation", "padding")
# Those that fail a check of these given embeddings alone: by themselves they read ids, and pass.
WITH_EMBEDDINGS = {"xlm": "generation"}

IMAGE = {"tower": tiny.vision_config(num_hidden_layers=1), "processor": tiny.image_processor(), "aligner": "linear"}
CHATS = (tiny.chat("image", "what is this ?"), tiny.chat("what", "image", "and", "image", "what is that ?", seed=2))
GREEDY = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}


class Case:
    """A composite around one kind of language model, and what the checks share."""

    def __init__(self, model_type: str, folder: Path, spare_tokens: int = 0):
        language = tiny.language_model(model_type, vocab_size=len(tiny.WORDS) + spare_tokens)
        self.model, self.processor = tiny.composite(language, {"image": {**IMAGE, "num_tokens": 3}})
        self.model.generation_config.eos_token_id = None
        self.folder = folder
        self.model_type, self.spare_tokens = model_type, spare_tokens
        self.inputs = dict(tiny.inputs(self.processor, *CHATS))
        self.rows = [dict(tiny.inputs(self.processor, chat)) for chat in CHATS]

    @cached_property
    def logits(self) -> torch.Tensor:
        with torch.no_grad():
            return self.model(**self.inputs).logits

    @property
    def labels(self) -> torch.Tensor:
        """Of the last words of each row."""
        ids = self.inputs["input_ids"]
        labels = ids.masked_fill(ids == self.processor.image_token_id, -100)
        labels[:, :-6] = -100
        return labels

    def without_media(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same for the language model alone, with a word in place of each placeholder."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        words = {"input_ids": ids.masked_fill(ids == self.processor.image_token_id, 7), "attention_mask": mask}
        if "position_ids" in inspect.signature(self.model.language_model.forward).parameters:
            words["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return words


def check_forward(case: Case) -> None:
    assert case.logits.shape[:2] == case.inputs["input_ids"].shape and torch.isfinite(case.logits).all()
    other = {**case.inputs, "pixel_values": case.inputs["pixel_values"].flip(0, -1)}
    assert (last_logits(case.model, other) - case.logits[:, -1]).abs().amax(-1).min() > 1e-4, "media do not matter"


def check_loss(case: Case) -> None:
    """The loss is the cross-entropy of the shifted labels on all logits."""
    with torch.no_grad():
        output = case.model(**case.inputs, labels=case.labels)
    torch.testing.assert_close(output.logits, case.logits, **TIGHT)
    expected = ForCausalLMLoss(case.logits.contiguous(), case.labels, case.logits.shape[-1])
    torch.testing.assert_close(output.loss, expected, **TIGHT)


def check_base_model(case: Case) -> None:
    """The headless composite over the same modules gives what the head reads."""
    read, base = [], case.model.base_model
    assert isinstance(base, AnyModalityModel) and base.image_tower is case.model.image_tower
    with torch.no_grad():
        with case.model.get_output_embeddings().register_forward_pre_hook(lambda head, args: read.append(args[0])):
            case.model(**case.inputs)
        hidden = base(**case.inputs).last_hidden_state
    if case.model_type in DEEP_HEADS:
        return
    scale = read[0].flatten()[0] / hidden.flatten()[0]  # which some models put before the head
    torch.testing.assert_close(hidden * scale, read[0], **TIGHT)


def check_gradient(case: Case) -> None:
    """In training, the loss reaches every weight of the aligner, and nothing that is frozen."""
    set_trainable(case.model, "aligners", verbose=False)
    case.model.train()
    try:
        case.model(**case.inputs, labels=case.labels).loss.backward()
    finally:
        case.model.eval()
    for name, parameter in case.model.named_parameters():
        if name.startswith("image_aligner."):
            assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 1e-8, name
        else:
            assert parameter.grad is None, name
    case.model.zero_grad()


def check_generation(case: Case, alone: bool = False) -> None:
    """Greedy tokens are the same with and without a cache. `alone`: of the language model, without media."""
    model, inputs = (
        (case.model.language_model, case.without_media(case.rows[1])) if alone else (case.model, case.rows[1])
    )
    if alone:
        model.generation_config.eos_token_id = None
        inputs.pop("position_ids", None)
    cached = model.generate(**inputs, **GREEDY)
    assert cached.shape[1] == inputs["input_ids"].shape[1] + 4
    uncached = model.generate(**inputs, **GREEDY, use_cache=False)
    assert cached.tolist() == uncached.tolist()


def check_padding(case: Case, alone: bool = False) -> None:
    """A row says the same beside a longer one, with its padding on the left, as by itself."""
    model, batch, rows = case.model, case.inputs, case.rows
    if alone:
        model, batch, rows = model.language_model, case.without_media(batch), [case.without_media(row) for row in rows]
        model.generation_config.eos_token_id = None
    with torch.no_grad():
        logits = model(**batch).logits if alone else case.logits
        for together, row in zip(logits, rows, strict=True):
            single = model(**row).logits[0]
            torch.testing.assert_close(together[-len(single) :], single, atol=1e-4, rtol=1e-4)
    for inputs in (batch, *rows):
        inputs.pop("position_ids", None)
    together = model.generate(**batch, **GREEDY)[:, -4:].tolist()
    assert together == [model.generate(**row, **GREEDY)[0, -4:].tolist() for row in rows]


def check_checkpoint(case: Case) -> None:
    """All that is saved comes back as it was."""
    case.model.save_pretrained(case.folder / "whole")
    again = case.reloaded = AutoModelForCausalLM.from_pretrained(case.folder / "whole")
    before, after = case.model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert not [name for name, value in before.items() if not torch.equal(value, after[name])]
    torch.testing.assert_close(last_logits(again, case.inputs), case.logits[:, -1], **TIGHT)


def check_lora(case: Case) -> None:
    """An adapter on all linear layers takes a step, matters, and comes back on a reloaded composite."""
    adapted = get_peft_model(case.model, lora_config(case.model, r=2, init_lora_weights=False)).train()
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    adapted(**case.inputs, labels=case.labels).loss.backward()
    assert not [name for name, p in trained.items() if p.grad is None], "adapters that never learn"
    reached = [name for name, p in trained.items() if p.grad.abs().max() > 0]
    assert all(torch.isfinite(p.grad).all() for p in trained.values())
    assert any("_aligner" in name for name in reached) and any("lora_A" in name for name in reached)
    torch.optim.SGD(trained.values(), lr=0.1).step()
    expected = last_logits(adapted.eval(), case.inputs)
    assert (expected - case.logits[:, -1]).abs().max() > 1e-3
    adapted.save_pretrained(case.folder / "adapter")
    again = PeftModel.from_pretrained(case.reloaded, case.folder / "adapter").eval()
    torch.testing.assert_close(last_logits(again, case.inputs), expected, **TIGHT)


def check_plan(case: Case) -> None:
    """Without weights, the same composite is composed."""
    language = tiny.tiny_causal_lm(case.model_type, vocab_size=len(tiny.WORDS) + case.spare_tokens)
    with torch.device("meta"):
        plan, _ = compose(language, {"image": {**IMAGE, "num_tokens": 3}}, tokenizer=tiny.tokenizer())
    assert plan.config.reads_input_ids == case.model.config.reads_input_ids
    shapes = [{name: tensor.shape for name, tensor in one.state_dict().items()} for one in (plan, case.model)]
    assert shapes[0] == shapes[1]


# In this order; the last changes the composite.
CHECKS: dict[str, Callable[[Case], None]] = {
    "forward": check_forward,
    "loss": check_loss,
    "base model": check_base_model,
    "gradient": check_gradient,
    "generation": check_generation,
    "padding": check_padding,
    "checkpoint": check_checkpoint,
    "plan": check_plan,
    "lora": check_lora,
}


def run_checks(model_type: str, folder: Path) -> tuple[Case, dict[str, Exception]]:
    """The case, and what failed: check -> error. "growth": the vocabulary has no room for the placeholder."""
    failures: dict[str, Exception] = {}
    try:
        case = Case(model_type, folder)
    except ValueError as error:
        failures["growth"] = error
        case = Case(model_type, folder, spare_tokens=8)
    for name, check in CHECKS.items():
        try:
            check(case)
        except Exception as error:  # whatever it is, the other checks go on
            failures[name] = error
    return case, failures
