"""MOFI for Hugging Face: image representations learned from noisy entity-annotated images.

Importing the package registers MOFI with transformers' Auto classes. Training is in `modeling_mofi.trainer_mofi`,
which needs the extra `train`.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForPreTraining, AutoProcessor

from .configuration_mofi import MofiConfig
from .entity_head_mofi import MofiEntityHead
from .image_processing_mofi import MofiImageProcessor
from .modeling_mofi import MofiModel, MofiOutput, MofiPreTrainedModel
from .pretraining_mofi import MofiForPreTraining, MofiForPreTrainingOutput
from .processing_mofi import MofiProcessor


AutoConfig.register(MofiConfig.model_type, MofiConfig, exist_ok=True)
AutoModel.register(MofiConfig, MofiModel, exist_ok=True)
AutoModelForPreTraining.register(MofiConfig, MofiForPreTraining, exist_ok=True)
AutoImageProcessor.register(MofiConfig, image_processor_classes={"pil": MofiImageProcessor}, exist_ok=True)
AutoProcessor.register(MofiConfig, MofiProcessor, exist_ok=True)

# What is saved names its classes in auto_map and takes their source files along, for use without this package.
MofiConfig.register_for_auto_class()
MofiModel.register_for_auto_class("AutoModel")
MofiImageProcessor.register_for_auto_class("AutoImageProcessor")
MofiProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "MofiConfig",
    "MofiEntityHead",
    "MofiForPreTraining",
    "MofiForPreTrainingOutput",
    "MofiImageProcessor",
    "MofiModel",
    "MofiOutput",
    "MofiPreTrainedModel",
    "MofiProcessor",
]
