"""The table of tests that do not run is about tests that there are."""

from modeling_tests.upstream import _package
from modeling_tests.upstream._reasons import stale


MIXINS = {
    "test_modeling_common": ("ModelTesterMixin", "GenerationTesterMixin"),
    "test_training_mixin": ("TrainingTesterMixin",),
    "test_pipeline_mixin": ("PipelineTesterMixin",),
    "test_processing_common": ("ProcessorTesterMixin",),
}
CLASSES = [getattr(_package.load(module), name) for module, names in MIXINS.items() for name in names]


def test_every_reason_is_for_a_test_that_upstream_has():
    assert not stale({name for mixin in CLASSES for name in dir(mixin)})
