# SPDX-License-Identifier: Apache-2.0
"""
Every name of trl that is not documented and that RFT relies on. setup.cfg pins trl to one minor version for their sake.

trl's trainers pass on images and token type ids by name; another modality's tensors must be carried through its private
methods by hand (github.com/huggingface/trl/issues/2097 asks for audio; pull request 5176 shows how a further tensor had to
be added by name). Were there a hook for further model inputs, the overrides would go.
"""

from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model


# Methods of GRPOTrainer that are overridden, with the parameters that the overrides were written for
OVERRIDDEN = {
    "_prepare_inputs": "self generation_batch",
    "_generate": "self prompts",
    "_tokenize_prompts": "self prompts",
    "_generate_single_turn": "self prompt_ids images multimodal_fields num_generations has_tool_images",
    "_generate_and_score_completions": "self inputs",
    "_calculate_rewards": "self inputs prompts completions completion_ids_list",
    "_get_per_token_logps_and_entropies": "self model input_ids attention_mask logits_to_keep batch_size",
    "_compute_loss": "self model inputs",
}
# Attributes of a GRPOTrainer that are read
READ = ("_logs", "_buffered_inputs", "_step")

__all__ = [
    "OVERRIDDEN",
    "READ",
    "add_fused_lm_head",
    "disable_dropout_in_model",
    "prepare_deepspeed",
    "prepare_fsdp",
]
