# SPDX-License-Identifier: Apache-2.0
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)

from .configuration_medtvt import MedTVTConfig, MedTVTEcgConfig, MedTVTLabConfig
from .modeling_medtvt import MedTVTForCausalLM, MedTVTModel, MedTVTPreTrainedModel
from .modeling_medtvt_encoders import MedTVTEcgEncoder, MedTVTLabEncoder


for config_class in (MedTVTConfig, MedTVTEcgConfig, MedTVTLabConfig):
    AutoConfig.register(config_class.model_type, config_class)
AutoModel.register(MedTVTConfig, MedTVTModel)
AutoModel.register(MedTVTEcgConfig, MedTVTEcgEncoder)
AutoModel.register(MedTVTLabConfig, MedTVTLabEncoder)
for auto_class in (AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(MedTVTConfig, MedTVTForCausalLM)
