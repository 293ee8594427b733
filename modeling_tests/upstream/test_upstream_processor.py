"""Upstream's tests of processors."""

import unittest

from transformers_anymodality import AnyModalityProcessor

from modeling_tests.upstream import _package


common = _package.load("test_processing_common")

from modeling_tests.upstream._tiny import composed  # noqa: E402


class TinyProcessor(AnyModalityProcessor):
    """Built from its parts by name, as upstream builds processors. Ours is told by a table whose part is whose."""

    @classmethod
    def get_attributes(cls):
        return ["tokenizer", "image_processor", "video_processor", "feature_extractor"]

    def __init__(self, tokenizer, image_processor, video_processor, feature_extractor, chat_template=None):
        _, built = composed()
        parts = {"image_processor": image_processor, "video_processor": video_processor}
        parts |= {"feature_extractor": feature_extractor, "imu_feature_extractor": built.imu_feature_extractor}
        super().__init__(tokenizer, parts, built.modalities, chat_template or built.chat_template)


class ProcessorTest(common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = TinyProcessor

    @classmethod
    def setUpClass(cls):
        # What is saved, and loaded by most tests, is the processor itself.
        super().setUpClass()

    @classmethod
    def _setup_from_components(cls):
        return composed()[1]

    def get_processor(self, use_tiny_ckpt=True):
        return AnyModalityProcessor.from_pretrained(self.tmpdirname)
