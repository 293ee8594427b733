"""Upstream's tests of models, on composites."""

import inspect
import unittest
from contextlib import contextmanager
from functools import partialmethod
from typing import Unpack
from unittest.mock import patch

import torch
from modeling_tests.upstream import _package
from transformers.testing_utils import torch_device
from transformers.utils import TransformersKwargs

from transformers_anymodality import AnyModalityConfig, AnyModalityForCausalLM, AnyModalityModel


common = _package.load("test_modeling_common")
training = _package.load("test_training_mixin")

from modeling_tests.upstream._tiny import SPECIAL, TinyModelTester, composed, composed_tied  # noqa: E402


def with_features(*names: str) -> tuple[type, type]:
    """The classes with `get_image_features` and the like as their own methods: upstream asks classes for them, while
    ours have them by instance, for whatever modalities there are."""
    methods = {f"get_{name}_features": partialmethod(AnyModalityModel.get_modality_features, name) for name in names}
    classes = (AnyModalityForCausalLM, AnyModalityModel)
    return tuple(type(cls.__name__, (cls,), {**methods, "__module__": cls.__module__}) for cls in classes)


# They load checkpoints that lack weights, which is an error here, to see what the stock loader fills in.
LOAD_INCOMPLETE = ("test_can_init_all_missing_weights", "test_model_weights_reload_no_missing_tied_weights")


class CompositeTests(common.GenerationTesterMixin, common.ModelTesterMixin):
    """What the composites have in common."""

    test_can_init_all_missing_weights_before_2023 = True
    _is_composite = True
    composite = staticmethod(composed)

    def setUp(self):
        self.model_tester = TinyModelTester(self, self.composite)
        # What upstream's own models find in its tables.
        patches = [patch.dict(common.MODEL_MAPPING_NAMES, {AnyModalityConfig.model_type: AnyModalityModel.__name__})]
        patches += [patch.object(common, "ids_tensor", self.text_ids)]
        # Upstream sees by this that attentions can be asked for; ours is open for media of any name.
        for model_class in (AnyModalityForCausalLM, AnyModalityModel):
            annotations = inspect.unwrap(model_class.forward).__annotations__
            patches += [patch.dict(annotations, {"kwargs": Unpack[TransformersKwargs]})]
        name = self._testMethodName
        if name in LOAD_INCOMPLETE:
            patches += [patch("transformers_anymodality.model.checkpoint.check_loading_info")]
        if "_features_" in name:
            image = property(lambda config: config.image_config)
            patches += [patch.object(AnyModalityConfig, "vision_config", image, create=True)]
        if name.startswith("test_eager_matches_sdpa"):
            # Upstream lengthens batches to 7 rows with ids without placeholders.
            self.model_tester.batch_size = 7
            inputs = self.model_tester.prepare_config_and_inputs_for_common()[1]
            self.additional_model_inputs = [key for key in inputs if key not in ("input_ids", "attention_mask")]
        if name == "test_bc_torch_dtype":
            # It prints all weights into messages that nobody sees, which takes longer than all else it does.
            patches += [patch("torch._tensor_str._str", lambda tensor, **kwargs: f"{tensor.dtype} tensor")]
        for each in patches:
            self.enterContext(each)

    @contextmanager
    def subTest(self, *args, **kwargs):
        """Thousands of them, one for each weight and dtype: reporting each takes longer than all the tests."""
        yield

    @staticmethod
    def text_ids(shape, vocab_size, rng=None, name=None):
        """Random ids without placeholders: they stand for media, which tests of text have none of."""
        return torch.randint(min(len(SPECIAL), vocab_size - 1), vocab_size, tuple(shape), device=torch_device)


class ModelTest(CompositeTests, training.TrainingTesterMixin, unittest.TestCase):
    all_model_classes = with_features("image", "video", "audio")
    model_tester = None

    def _create_text_training_batch(self, batch_size, seq_length, vocab_size):
        batch = super()._create_text_training_batch(batch_size, seq_length, vocab_size)
        return {name: ids + len(SPECIAL) for name, ids in batch.items()}

    def test_training_overfit(self):
        self.model_tester._config["vocab_size"] = self.model_tester.vocab_size  # read at the top
        super().test_training_overfit()


class TiedModelTest(CompositeTests, unittest.TestCase):
    all_model_classes = with_features("image")
    composite = staticmethod(composed_tied)
    # A tower's norm for its pooled output, which nothing reads.
    test_all_params_have_gradient = False
