# SPDX-License-Identifier: Apache-2.0
"""MedTVT-R1 for transformers. Importing this package registers model, processor and pipeline with transformers."""

from pathlib import Path

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # a dummy elsewhere without torchvision
from transformers.pipelines import PIPELINE_REGISTRY

from processing_medtvt import (
    MedTVTEcgFeatureExtractor,
    MedTVTImageProcessor,
    MedTVTLabFeatureExtractor,
    MedTVTProcessor,
    __version__,
)

from .answers_medtvt import DISEASES, ParsedAnswer, parse_answer
from .configuration_medtvt import MedTVTConfig, MedTVTEcgConfig, MedTVTLabConfig
from .export_medtvt import export_for_hub
from .modeling_medtvt import MedTVTForCausalLM, MedTVTModel
from .modeling_medtvt_encoders import MedTVTEcgEncoder, MedTVTLabEncoder
from .pipeline_medtvt import MedicalDiagnosisPipeline
from .provenance_medtvt import Provenance
from .result_medtvt import DiagnosisBatch, DiagnosisResult


for config_class in (MedTVTConfig, MedTVTEcgConfig, MedTVTLabConfig):
    AutoConfig.register(config_class.model_type, config_class)
AutoModel.register(MedTVTConfig, MedTVTModel)
AutoModel.register(MedTVTEcgConfig, MedTVTEcgEncoder)
AutoModel.register(MedTVTLabConfig, MedTVTLabEncoder)
for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(MedTVTConfig, MedTVTForCausalLM)
AutoProcessor.register(MedTVTConfig, MedTVTProcessor)
AutoFeatureExtractor.register(MedTVTEcgConfig, MedTVTEcgFeatureExtractor)
AutoFeatureExtractor.register(MedTVTLabConfig, MedTVTLabFeatureExtractor)
# one class for both backends: results must not depend on whether torchvision is installed
AutoImageProcessor.register(
    MedTVTConfig, image_processor_classes={"pil": MedTVTImageProcessor, "torchvision": MedTVTImageProcessor}
)
# The checkpoint that the package carries
_HERE = Path(__file__).parent
# in a wheel beside the code; in a source tree among what goes to the Hub
DEFAULT_CHECKPOINT = str(
    _HERE / "default_checkpoint"
    if (_HERE / "default_checkpoint").is_dir()
    else _HERE.parent / "hub_cards" / "medtvt-r1-tiny"
)
PIPELINE_REGISTRY.register_pipeline(
    "medical-diagnosis",
    MedicalDiagnosisPipeline,
    pt_model=AutoModelForCausalLM,
    default={"model": (DEFAULT_CHECKPOINT, None)},
    type="multimodal",
)

__all__ = [
    "DEFAULT_CHECKPOINT",
    "DISEASES",
    "DiagnosisBatch",
    "DiagnosisResult",
    "MedTVTConfig",
    "MedTVTEcgConfig",
    "MedTVTEcgEncoder",
    "MedTVTForCausalLM",
    "MedTVTLabConfig",
    "MedTVTLabEncoder",
    "MedTVTModel",
    "MedicalDiagnosisPipeline",
    "ParsedAnswer",
    "Provenance",
    "__version__",
    "export_for_hub",
    "parse_answer",
]
