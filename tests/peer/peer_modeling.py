# SPDX-License-Identifier: Apache-2.0
import unittest

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES
from transformers_tests import test_modeling_common, test_tensor_parallel_mixin
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_training_mixin import TrainingTesterMixin

from modeling_medtvt import MedTVTConfig, MedTVTForCausalLM, MedTVTModel


# the tests ask transformers' own tables, where ours would stand if it were one of its models
MODEL_MAPPING_NAMES[MedTVTConfig.model_type] = MedTVTModel.__name__
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[MedTVTConfig.model_type] = MedTVTForCausalLM.__name__
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES = None


class MedTVTModelTester:
    """A model of few parameters but its embedding's, and a batch of three with all modalities."""

    causal_lm_class = MedTVTForCausalLM
    base_model_class = MedTVTModel
    batch_size, seq_length, is_training = 3, 9, True
    # odd, as a vocabulary may be; large, so that a random id is hardly ever a placeholder
    vocab_size, hidden_size, num_hidden_layers, num_attention_heads = 24_999, 32, 2, 4

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        return MedTVTConfig(
            text_config={
                "model_type": "llama",
                "vocab_size": self.vocab_size,
                "hidden_size": self.hidden_size,
                "intermediate_size": 37,
                "num_hidden_layers": self.num_hidden_layers,
                "num_attention_heads": self.num_attention_heads,
                "num_key_value_heads": 2,
                "max_position_embeddings": 64,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
                "tie_word_embeddings": True,
            },
            ecg_config={"stem_sizes": (4, 4, 8), "stage_sizes": (4, 4), "depths": (1, 1)},
            cxr_config={
                "model_type": "vit",
                "image_size": 32,
                "patch_size": 16,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            },
            lab_config={"intermediate_size": 8, "hidden_size": 16},
            ecg_pooling_size=16,
            projector_depth=1,
            # some tests fill rows with ids below twenty
            ecg_token_id=20,
            cxr_token_id=21,
            lab_token_id=22,
            vocab_size=self.vocab_size,  # `test_training_overfit` reads it here
        )

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        generator = torch.Generator().manual_seed(0)
        input_ids = torch.randint(30, self.vocab_size, (self.batch_size, self.seq_length), generator=generator)
        input_ids[:, 1:4] = torch.tensor(config.modality_token_ids)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "ecg_values": torch.randn(self.batch_size, 12, 100, generator=generator),
            "pixel_values": torch.randn(self.batch_size, 3, 32, 32, generator=generator),
            "lab_values": torch.rand(self.batch_size, 100, generator=generator),
        }
        return config, inputs


class MedTVTModelTest(
    test_modeling_common.ModelTesterMixin,
    GenerationTesterMixin,
    test_tensor_parallel_mixin.TensorParallelTesterMixin,
    TrainingTesterMixin,
    unittest.TestCase,
):
    model_tester = None
    all_model_classes = (MedTVTModel, MedTVTForCausalLM)
    _is_composite = True
    test_torch_exportable = False
    training_overfit_learning_rate = 3e-3  # a width of 32 learns slowly
    # beside the ids, where a test passes on part of a batch
    additional_model_inputs = ["ecg_values", "pixel_values", "lab_values"]

    def setUp(self):
        self.model_tester = MedTVTModelTester(self)
        test_modeling_common.global_rng.seed(0)  # the source of random ids

    def _image_features_prepare_config_and_inputs(self):
        config, inputs = super()._image_features_prepare_config_and_inputs()
        config.vision_config = config.cxr_config  # where the tests look for its width and depth
        return config, inputs
