"""Makes the composite known to the Auto classes, to the name tables that pipelines and `transformers serve` read, and to
Liger's.

`push_to_hub` is the one method of the model that stands above it: it publishes model, processor and card together.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSequenceClassification,
    AutoProcessor,
)

from .hub.publish import push_to_hub
from .model import liger
from .model.classification import AnyModalityForSequenceClassification
from .model.configuration import AnyModalityConfig
from .model.modeling import AnyModalityForCausalLM, AnyModalityModel, AnyModalityPreTrainedModel
from .processing.processor import AnyModalityProcessor
from .utils.imports import when_imported
from .utils.upstream import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)


def register() -> None:
    """Registers everything; calling it again changes nothing."""
    AutoConfig.register(AnyModalityConfig.model_type, AnyModalityConfig, exist_ok=True)
    AutoModel.register(AnyModalityConfig, AnyModalityModel, exist_ok=True)
    for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(AnyModalityConfig, AnyModalityForCausalLM, exist_ok=True)
    AutoModelForSequenceClassification.register(AnyModalityConfig, AnyModalityForSequenceClassification, exist_ok=True)
    AutoProcessor.register(AnyModalityConfig, AnyModalityProcessor, exist_ok=True)
    AnyModalityPreTrainedModel.push_to_hub = push_to_hub
    # Serving and pipelines look classes up by name in these, not in what is registered.
    for table in (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    ):
        table[AnyModalityConfig.model_type] = AnyModalityForCausalLM.__name__
    when_imported("liger_kernel.transformers.monkey_patch", liger.register)
