"""Upstream's tests of pipelines."""

import unittest
from unittest.mock import patch

import transformers
from modeling_tests.upstream import _package

from transformers_anymodality import AnyModalityForCausalLM, AnyModalityModel, AnyModalityProcessor


common = _package.load("test_pipeline_mixin")

from modeling_tests.upstream._tiny import composed  # noqa: E402


class PipelineTest(common.PipelineTesterMixin, unittest.TestCase):
    pipeline_model_mapping = {
        "any-to-any": AnyModalityForCausalLM,
        "feature-extraction": AnyModalityModel,
        "image-text-to-text": AnyModalityForCausalLM,
        "text-generation": AnyModalityForCausalLM,
    }

    @classmethod
    def setUpClass(cls):
        _, processor = composed()
        for model_class in set(cls.pipeline_model_mapping.values()):
            folder = _package.tiny_models_folder() / model_class.config_class.model_type / model_class.__name__
            model_class(composed()[0].config).save_pretrained(folder)
            processor.save_pretrained(folder)

    def setUp(self):
        # What upstream's own models find in its name space and tables.
        self.enterContext(patch.object(transformers, "AnyModalityProcessor", AnyModalityProcessor, create=True))
        self.enterContext(patch.dict(common.PROCESSOR_MAPPING_NAMES, {"anymodality": "AnyModalityProcessor"}))
