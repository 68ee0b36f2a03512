# SPDX-License-Identifier: Apache-2.0
"""Every name of transformers that is not documented and that the packages rely on, and what for. Never exported."""

PRIVATE_NAMES = {
    # overridden, since transformers knows image, video and audio as modalities only
    "transformers.processing_utils:ProcessorMixin._get_arguments_from_pretrained": "finds the feature extractors of ECG and labs",
    "transformers.processing_utils:ProcessorMixin._merge_kwargs": "keywords of the parts of a processor",
    # habits of a model's class, which its guide for contributors describes
    "transformers:PreTrainedModel._init_weights": "how parameters are drawn",
    "transformers:PreTrainedModel._keep_in_fp32_modules": "norms of the encoders in half precision",
    "transformers:PreTrainedModel._adjust_missing_and_unexpected_keys": "what a model lacks, also one under an adapter",
    "transformers:PreTrainedModel._keys_to_ignore_on_load_unexpected": "PT leaves the perception layer out",
    "transformers:PreTrainedModel._auto_class": "whether code is saved with the weights",
    "transformers:Pipeline._sanitize_parameters": "which step gets which keyword",
    # tables, whose public way in is an Auto class that would download
    "transformers.models.auto:CONFIG_MAPPING": "sub-configs by model type",
    "transformers.models.auto.feature_extraction_auto:FEATURE_EXTRACTOR_MAPPING": "registration",
    "transformers.models.auto.image_processing_auto:IMAGE_PROCESSOR_MAPPING": "registration",
    "transformers.models.auto.processing_auto:PROCESSOR_MAPPING": "registration",
    "transformers.models.auto.modeling_auto:MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES": "which of the paper's peers are native",
    "transformers.pipelines:PIPELINE_REGISTRY": "registration",
    "transformers.dynamic_module_utils:custom_object_save": "code of the pipeline beside the weights",
}

__all__ = ["PRIVATE_NAMES"]
