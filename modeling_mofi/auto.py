"""MOFI's public classes, registered with transformers' Auto classes."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
)

from .configuration_mofi import MofiConfig
from .entity_head import MofiEntityHead
from .image_processing_mofi import MofiImageProcessor
from .modeling_mofi import MofiModel, MofiOutput
from .pretrained_mofi import MofiPreTrainedModel
from .pretraining import MofiForPreTraining, MofiForPreTrainingOutput
from .processing_mofi import MofiProcessor
from .single_towers_mofi import (
    MofiForImageClassification,
    MofiTextModel,
    MofiTextModelWithProjection,
    MofiVisionModel,
    MofiVisionModelWithProjection,
)


__all__ = [
    "MofiConfig",
    "MofiEntityHead",
    "MofiForImageClassification",
    "MofiForPreTraining",
    "MofiForPreTrainingOutput",
    "MofiImageProcessor",
    "MofiModel",
    "MofiOutput",
    "MofiPreTrainedModel",
    "MofiProcessor",
    "MofiTextModel",
    "MofiTextModelWithProjection",
    "MofiVisionModel",
    "MofiVisionModelWithProjection",
]

TOWERS = (MofiVisionModel, MofiTextModel, MofiVisionModelWithProjection, MofiTextModelWithProjection)

AutoConfig.register(MofiConfig.model_type, MofiConfig, exist_ok=True)
# Of several models for one configuration, the one that the checkpoint's `architectures` names is taken.
AutoModel.register(MofiConfig, (MofiModel, *TOWERS), exist_ok=True)
AutoModelForPreTraining.register(MofiConfig, MofiForPreTraining, exist_ok=True)
AutoModelForZeroShotImageClassification.register(MofiConfig, MofiModel, exist_ok=True)
AutoModelForImageClassification.register(MofiConfig, MofiForImageClassification, exist_ok=True)
AutoImageProcessor.register(MofiConfig, image_processor_classes={"pil": MofiImageProcessor}, exist_ok=True)
AutoProcessor.register(MofiConfig, MofiProcessor, exist_ok=True)

# What is saved names its classes in auto_map and takes their source files along, for use without this package.
MofiConfig.register_for_auto_class()
for model_class in (MofiModel, *TOWERS):
    model_class.register_for_auto_class("AutoModel")
MofiForImageClassification.register_for_auto_class("AutoModelForImageClassification")
MofiImageProcessor.register_for_auto_class("AutoImageProcessor")
MofiProcessor.register_for_auto_class("AutoProcessor")
