# SPDX-License-Identifier: Apache-2.0
"""Arguments of the training stages."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..serving import DEFAULT_ENGINE_URL


LORA_TARGETS = r".*language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass
class ModelArguments:
    """What is trained."""

    model: str = field(metadata={"help": "Folder (or Hub id) of the MedTVT model to start from."})
    tuning: str = field(
        default="lora",
        metadata={
            "help": "'lora': LoRA on the language model. 'full': all of the language model, for one that is not pretrained.",
            "choices": ["lora", "full"],
        },
    )
    dtype: str = field(
        default="float32",
        metadata={
            "help": "Precision of what is frozen; what is trained is always float32.",
            "choices": ["float32", "bfloat16"],
        },
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Hold the frozen language model in 4 bits (QLoRA, bitsandbytes NF4)."}
    )
    chunked_loss: bool = field(
        default=False,
        metadata={
            "help": "Compute logits a chunk at a time, where there are labels: saves memory with a large vocabulary."
        },
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of LoRA."})
    lora_alpha: int = field(default=8, metadata={"help": "Scale of LoRA; its weights count alpha / rank times."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before LoRA."})
    lora_targets: str = field(
        default=LORA_TARGETS, metadata={"help": "Regular expression of the adapted linear layers' whole names."}
    )


@dataclass
class DataArguments:
    """What it is trained on."""

    data: str = field(metadata={"help": "Folder of a MedTVT-QA dataset."})
    ecg_root: str | None = field(default=None, metadata={"help": "Folder of the ECG paths (default: the dataset's)."})
    cxr_root: str | None = field(
        default=None, metadata={"help": "Folder of the X-ray paths (default: the dataset's)."}
    )
    max_rejected: float = field(
        default=0.01, metadata={"help": "Share of rows that may be unusable before the run is refused."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Rows of more tokens are left out, with a note, never cut."}
    )
    feature_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the frozen encoders' outputs and a copy of the rows, so that each is read once; see "
            "`medtvt cache`."
        },
    )
    feature_dtype: str = field(
        default="float32",
        metadata={
            "help": "Precision of the outputs in the feature cache; float16 takes half the space.",
            "choices": ["float32", "float16"],
        },
    )
    max_eval_rows: int | None = field(
        default=None, metadata={"help": "Validation rows to take the validation loss on (default: all)."}
    )
    resume: bool = field(
        default=False, metadata={"help": "Go on from the last whole checkpoint in the output folder, if there is one."}
    )


_EXTRA_DATA = (
    "Folders of further MedTVT-QA datasets whose rows are mixed in; of their physiology rows, but for SFT, which takes their "
    "diagnosis rows where they hold any."
)
_EXTRA_SHARE = "Share of an epoch's rows for each folder of `extra_data`, in their order (default: each row once)."


@dataclass
class MixtureArguments:
    """What is mixed in."""

    extra_data: list[str] = field(default_factory=list, metadata={"help": _EXTRA_DATA})
    extra_share: list[float] = field(default_factory=list, metadata={"help": _EXTRA_SHARE})

    def shares_of(self, folders: Iterable[str]) -> list[float | None]:
        """
        The shares of some of the folders of `extra_data`.

        Raises:
            ValueError: if there are shares, but not one a folder.
        """
        if self.extra_share and len(self.extra_share) != len(self.extra_data):
            raise ValueError(
                f"`extra_share` has {len(self.extra_share)} shares for {len(self.extra_data)} folders in `extra_data`; "
                "give one a folder, or none."
            )
        shares = dict(zip(self.extra_data, self.extra_share))
        return [shares.get(folder) for folder in folders]


@dataclass
class PretrainArguments:
    """What only PT has."""

    findings_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of a loss on the tokens that the language model gets, which a linear head, thrown away in the "
            "end, must name the rows' `findings` from."
        },
    )


@dataclass
class FinetuneArguments:
    """What only SFT has."""

    replay: float = field(
        default=0.0,
        metadata={"help": "Share of an epoch's rows that are physiology rows, so that what PT taught is kept."},
    )
    modality_dropout: float = field(
        default=0.0,
        metadata={"help": "Probability that a training row loses a modality, so that absence is learned."},
    )
    eval_answers: int = field(
        default=64, metadata={"help": "Validation rows to answer at each evaluation, for eval_disease_f1; 0 for none."}
    )


@dataclass
class ReinforceArguments:
    """What only RFT has."""

    rewards: list[str] = field(
        default_factory=lambda: ["format", "jaccard"],
        metadata={
            "help": "What to reward: format, jaccard, empty, evidence, probability, graded_format. `reward_weights` weighs "
            "them. Patients without a listed disease are kept where `empty` is among them."
        },
    )
    refill: int = field(
        default=0,
        metadata={
            "help": "How many times prompts whose completions all earn the same give way to fresh ones, in each batch; 0 for "
            "never."
        },
    )
    rollout_engine: str = field(
        default="transformers",
        metadata={
            "help": "What writes completions. 'vllm': a server of `model` with LoRA, see docs/serving.md; needs `tuning: lora`.",
            "choices": ["transformers", "vllm"],
        },
    )
    rollout_url: str = field(default=DEFAULT_ENGINE_URL, metadata={"help": "Where the vLLM of `rollout_engine` is."})
    eval_answers: int = field(
        default=0,
        metadata={"help": "Validation rows to answer greedily at each evaluation, for eval_disease_f1; 0 for none."},
    )
    patience: int = field(
        default=0,
        metadata={
            "help": "Evaluations without a better `metric_for_best_model` after which to stop, with `load_best_model_at_end`; "
            "0 for never."
        },
    )
    sample_completions: int = field(
        default=8, metadata={"help": "Completions to add to samples.jsonl at each log, with their patients' diseases."}
    )


@dataclass
class EncoderArguments(MixtureArguments):
    """What the encoders are trained on, and how long."""

    model: str = field(kw_only=True, metadata={"help": "Folder of the MedTVT model whose encoders are trained."})
    data: str | None = field(
        default=None, metadata={"help": "Folder of a MedTVT-QA dataset whose physiology rows list their `findings`."}
    )
    labels: str | None = field(
        default=None,
        metadata={
            "help": "CSV in the layout of PTB-XL (ptbxl_database.csv), for the ECG encoder, in place of `data`."
        },
    )
    statements: str | None = field(
        default=None,
        metadata={"help": "PTB-XL's scp_statements.csv: learn its diagnostic superclasses, not each statement."},
    )
    modalities: list[str] = field(
        default_factory=lambda: ["ecg", "cxr", "lab"], metadata={"help": "Whose encoders to train."}
    )
    min_positives: int = field(
        default=10, metadata={"help": "Findings that fewer training inputs show are left out, with a note."}
    )
    feature_dropout: float = field(
        default=0.0, metadata={"help": "Dropout between an encoder and its projector, against learning rows by heart."}
    )
    augment: bool = field(
        default=False,
        metadata={
            "help": "Vary films (position, exposure, noise) and ECGs (start, gain, wander, noise) each time they are seen."
        },
    )
    patience: int = field(
        default=0,
        metadata={
            "help": "Evaluations without a better one after which an encoder is done; 0 for none. Needs "
            "`load_best_model_at_end`."
        },
    )
    ecg_epochs: float = field(default=10, metadata={"help": "Epochs of the ECG encoder."})
    cxr_epochs: float = field(default=10, metadata={"help": "Epochs of the X-ray encoder."})
    lab_epochs: float = field(default=10, metadata={"help": "Epochs of the laboratory encoder."})
    ecg_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the ECG encoder."})
    cxr_learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of the X-ray encoder."})
    lab_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the laboratory encoder."})
    ecg_batch_size: int = field(default=64, metadata={"help": "Batch size per device of the ECG encoder."})
    cxr_batch_size: int = field(default=64, metadata={"help": "Batch size per device of the X-ray encoder."})
    lab_batch_size: int = field(default=64, metadata={"help": "Batch size per device of the laboratory encoder."})
    max_rejected: float = field(
        default=0.01, metadata={"help": "Share of inputs that may be unreadable before the run is refused."}
    )
    resume: bool = field(default=False, metadata={"help": "Go on from the last whole checkpoint of each encoder."})


RECIPES = Path(__file__).parent / "recipes"
# Stage to the name of its command and of its recipe's file
RECIPE_NAMES = {"encoders": "encoders", "pt": "pretrain", "sft": "finetune", "rft": "reinforce"}
OWN_ARGUMENTS = {
    "encoders": (EncoderArguments,),
    "pt": (ModelArguments, DataArguments, MixtureArguments, PretrainArguments),
    "sft": (ModelArguments, DataArguments, MixtureArguments, FinetuneArguments),
    "rft": (ModelArguments, DataArguments, ReinforceArguments),
}


def packaged_recipes(stage: str) -> list[str]:
    """Names of the packaged recipes of a stage."""
    return sorted(path.parent.name for path in RECIPES.glob(f"*/{RECIPE_NAMES[stage]}.yaml"))
