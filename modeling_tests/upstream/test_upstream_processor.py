"""Upstream's tests of processors."""

import unittest
from functools import partial

from modeling_tests.upstream import _package

from transformers_anymodality import AnyModalityProcessor


common = _package.load("test_processing_common")

from modeling_tests.upstream._tiny import composed  # noqa: E402


# The modalities that upstream knows.
built = partial(composed, "image", "video", "audio")


class ByParts(AnyModalityProcessor):
    """Makes processors of our class from their parts by name, as upstream does, where ours is told by a table whose part
    is whose. All else is our class's own."""

    from_pretrained = AnyModalityProcessor.from_pretrained

    @classmethod
    def get_attributes(cls):
        return ["tokenizer", "image_processor", "video_processor", "feature_extractor"]

    def __new__(cls, tokenizer, chat_template=None, **parts):
        _, processor = built()
        return AnyModalityProcessor(tokenizer, parts, processor.modalities, chat_template or processor.chat_template)


# Upstream's messages -> ours.
MESSAGES = {
    " tokens in the prompts should be the same as the number of ": r"has \d+ <\w+> placeholders, but \d+ media of|lists of media for",
}


class ProcessorTest(common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = ByParts

    @classmethod
    def _setup_from_components(cls):
        return built()[1]

    def does_processor_return_mm_offsets(self, processor_class, method_name):
        """Upstream tells by methods that our class does not have; what it then tests applies."""
        return True

    def prepare_videos_inputs(self, batch_size=None):
        """As many frames as the model reads; ours picks that many of longer videos."""
        frames = built()[1].modalities["video"].options["num_frames"]
        videos = super().prepare_videos_inputs(batch_size)
        return videos[:frames] if batch_size is None else [video[:frames] for video in videos]

    def assertRaisesRegex(self, exception, regex, *args, **kwargs):
        return super().assertRaisesRegex(exception, MESSAGES.get(regex, regex), *args, **kwargs)
