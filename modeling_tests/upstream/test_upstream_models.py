"""Upstream's tests of models, on composites."""

import unittest
from functools import partialmethod
from unittest.mock import patch

from transformers_anymodality import AnyModalityConfig, AnyModalityForCausalLM, AnyModalityModel

from modeling_tests.upstream import _package


common = _package.load("test_modeling_common")
training = _package.load("test_training_mixin")

from modeling_tests.upstream._tiny import TinyModelTester, composed_tied  # noqa: E402


def with_features(model_class: type) -> type:
    """The class with `get_image_features` and the like as its own methods: upstream asks classes for them, while ours
    have them by instance, for whatever modalities there are."""
    names = ("image", "video", "audio")
    methods = {f"get_{name}_features": partialmethod(model_class.get_modality_features, name) for name in names}
    return type(model_class.__name__, (model_class,), {**methods, "__module__": model_class.__module__})


# They load checkpoints that lack weights, which is an error here, to see what the stock loader fills in.
LOAD_INCOMPLETE = {
    "test_can_init_all_missing_weights",
    "test_model_weights_reload_no_missing_tied_weights",
}


class CompositeTests(common.GenerationTesterMixin, common.ModelTesterMixin):
    all_model_classes = (with_features(AnyModalityForCausalLM), with_features(AnyModalityModel))
    test_can_init_all_missing_weights_before_2023 = True
    _is_composite = True

    def setUp(self):
        patches = [
            # What upstream would have been told in its own tables.
            patch.dict(common.MODEL_MAPPING_NAMES, {AnyModalityConfig.model_type: AnyModalityModel.__name__}),
        ]
        if self._testMethodName in LOAD_INCOMPLETE:
            patches.append(patch("transformers_anymodality.loading.check_loading_info"))
        if "_features" in self._testMethodName:
            image = property(lambda config: config.image_config)
            patches.append(patch.object(AnyModalityConfig, "vision_config", image, create=True))
        for each in patches:
            self.enterContext(each)


class ModelTest(CompositeTests, training.TrainingTesterMixin, unittest.TestCase):
    model_tester = None

    def setUp(self):
        super().setUp()
        self.model_tester = TinyModelTester(self)


class TiedModelTest(CompositeTests, unittest.TestCase):
    # A tower's norm for its pooled output, which nothing reads.
    test_all_params_have_gradient = False

    def setUp(self):
        super().setUp()
        self.model_tester = TinyModelTester(self, composed_tied)
