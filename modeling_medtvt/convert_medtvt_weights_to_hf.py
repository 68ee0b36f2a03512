# SPDX-License-Identifier: Apache-2.0
"""
Converts a checkpoint of the MedTVT-R1 authors (keke-nice/MedTVT-R1; PT, SFT or RFT) into a folder for transformers.

    medtvt convert --checkpoint checkpoint_19.pth --params params.json \
        --tokenizer tokenizer.model --lab-means labs_means.json --out medtvt-r1
"""

import argparse
import json
import os
import re
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers import LlamaConfig, ViTConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, is_peft_available, logging

from .configuration_medtvt import MedTVTConfig, MedTVTEcgConfig, MedTVTLabConfig
from .convert_medtvt_tokenizer import (
    MAX_LENGTH,
    NUM_SPECIAL_ROWS,
    SPECIAL_TOKENS,
    build_generation_config,
    build_processor,
    convert_tokenizer,
)
from .modeling_medtvt import PLACEHOLDERS, MedTVTForCausalLM
from .output_folder import check_new_folder, new_folder
from .provenance_medtvt import Provenance


logger = logging.get_logger(__name__)

# Bounds the converted tensors held in memory at once
MAX_SHARD_SIZE = "2GB"
BASE_FOLDER = "base"
# All linear layers of the language model but its head. Anchored: the ViT has layers of the same names
LORA_MODULES = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
LORA_TARGETS = re.compile(LORA_MODULES + r"\.weight")
REQUIRED_PARAMS: dict[str, Any] = {
    "dim": int,
    "n_layers": int,
    "n_heads": int,
    "norm_eps": float,
    "rope_theta": (int, float),
}

# Constants of the authors' code that no tensor and no file states
PERCEPTION_HEADS = 4
FUSION_SCALE = 0.01
VIT_HEAD_SIZE = 64

# Tensors of the file that nothing reads
DUPLICATE = re.compile(r"(ecg_encoder\.\d+\.\d+\.)convs\.(.+)")
DROPPED = {
    "second registration of the ECG blocks' convolutions (`convpath` is kept)": DUPLICATE,
    "attention gate that the authors never use": re.compile(r"llama\.layers\.\d+\.attention\.gate"),
    "ViT pooler that the authors never use": re.compile(r"vit_model\.pooler\.dense\.(weight|bias)"),
}

PROJECTORS = {"ecg": "ecg_xresnet1d101", "cxr": "cxr_vit", "lab": "lab_fc"}
BLOCK_PARTS = {"norm": "norm", "gate_proj": "f1", "down_proj": "f2", "up_proj": "f3"}
LLAMA_PARTS = {
    **{f"self_attn.{part}_proj": f"attention.w{part}" for part in "qkvo"},
    **{"mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3"},
    **{"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"},
}
VIT_PARTS = {
    **{f"attention.{part[0]}_proj": f"attention.attention.{part}" for part in ("query", "key", "value")},
    **{"attention.o_proj": "attention.output.dense", "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"},
    **{"layernorm_before": "layernorm_before", "layernorm_after": "layernorm_after"},
}
# Our names -> theirs; the first match counts
SOURCE_NAMES = (
    (r"lm_head\.", r"llama.output."),
    (r"model\.language_model\.embed_tokens\.", r"llama.tok_embeddings."),
    (r"model\.language_model\.norm\.", r"llama.norm."),
    (r"model\.language_model\.layers\.(\d+)\.(.+)\.", lambda m: f"llama.layers.{m[1]}.{LLAMA_PARTS[m[2]]}."),
    (r"model\.cxr_encoder\.layers\.(\d+)\.(.+)\.", lambda m: f"vit_model.encoder.layer.{m[1]}.{VIT_PARTS[m[2]]}."),
    (r"model\.cxr_encoder\.", r"vit_model."),
    (r"model\.lab_encoder\.", r"lab_encoder."),
    (r"model\.ecg_encoder\.stem\.", r"ecg_encoder."),
    (r"model\.(ecg|cxr|lab)_projector\.linear\.", lambda m: f"{PROJECTORS[m[1]]}_proj."),
    (
        r"model\.(ecg|cxr|lab)_projector\.blocks\.(\d+)\.(\w+)\.",
        lambda m: f"{PROJECTORS[m[1]]}_{BLOCK_PARTS[m[3]]}_{int(m[2]) + 1}.",
    ),
    (r"model\.ecg_projector\.(rnn|attention)\.", r"ecg_xresnet1d101_\1."),
    (r"model\.cxr_projector\.pooling\.", r"cxr_vit_agg."),
    (r"model\.perception\.gate\.", r"DynamicWeighting.gate."),
    (r"model\.perception\.layer_norm\.", r"CyclicCrossModalAttention.layer_norm."),
    (r"model\.perception\.attention\.o_proj\.", r"CyclicCrossModalAttention.multihead_attention.out_proj."),
    (
        r"model\.perception\.attention\.[qkv]_proj\.(weight|bias)",
        r"CyclicCrossModalAttention.multihead_attention.in_proj_\1",
    ),
)


class Recipe(NamedTuple):
    """How one tensor of ours is made: from these tensors of the file, by this function of them."""

    sources: tuple[str, ...]
    function: Callable[..., torch.Tensor]


class Plan(NamedTuple):
    """How a whole folder is made: `reference` holds its tensors without storage, `dropped` what no recipe uses."""

    reference: dict[str, torch.Tensor]
    recipes: dict[str, Recipe]
    adapter: dict[str, Recipe]
    rank: int
    dropped: dict[str, list[str]]


def read_pickled(path: str | os.PathLike) -> Any:
    """
    Opens a file of `torch.save` without reading its tensors: they are mapped from the file and read when used, so an
    optimizer beside them costs nothing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, no file of `torch.save`, or pickles anything else than tensors, plain containers and
            an `argparse.Namespace`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Checkpoint {path}: {'a folder, not a file' if path.is_dir() else 'no such file'}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"Checkpoint {path}: not a complete file of `torch.save` (a zip archive); truncated or something else."
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            loaded = None if foreign else torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    # Broken archives and pickles raise many types; the cause is chained
    except Exception as error:
        raise ValueError(
            f"Checkpoint {path}: an archive, but not a readable one of `torch.save` that holds tensors, plain "
            "containers and an `argparse.Namespace`."
        ) from error
    if foreign:
        raise ValueError(
            f"Checkpoint {path}: refused, it pickles {', '.join(sorted(foreign))}. Loading such objects runs code "
            "that the file brings or names; only tensors, plain containers and an `argparse.Namespace` are accepted."
        )
    return loaded


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], bool]:
    """
    Args:
        path (`str` or `os.PathLike`): A PT or SFT file, `{"model": state_dict, "optimizer": ..., "args": Namespace}`,
            or an RFT file, the state dict itself. See [`read_pickled`] for what is refused.

    Returns:
        The state dict without the prefix `module.`, and whether it was the whole file (RFT).
    """
    loaded = read_pickled(path)
    is_flat = not (isinstance(loaded, dict) and "model" in loaded)
    state_dict = loaded if is_flat else loaded["model"]
    if not isinstance(state_dict, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state_dict.items()
    ):
        raise ValueError(
            f"Checkpoint {path}: holds no state dict. Accepted are a dict of named tensors (RFT) or a dict that has "
            'one under "model" (PT, SFT).'
        )
    return {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}, is_flat


def read_params(path: str | os.PathLike) -> dict:
    """
    Reads Meta's `params.json`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no JSON object, or lacks one of the numbers in `REQUIRED_PARAMS`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"Params file {path}: no such file. The `params.json` that Meta ships beside Llama's weights is needed."
        )
    try:
        params = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Params file {path}: not a JSON file ({error}).") from error
    if not isinstance(params, dict):
        raise ValueError(f"Params file {path}: holds a {type(params).__name__}, a JSON object is needed.")
    for name, kind in REQUIRED_PARAMS.items():
        if not isinstance(params.get(name), kind) or params[name] <= 0:
            raise ValueError(
                f"Params file {path}: {name} is {params.get(name)!r}, a positive number is needed. Meta's "
                f"`params.json` has {', '.join(REQUIRED_PARAMS)}."
            )
    return params


def _shape(state_dict: dict[str, torch.Tensor], name: str, num_dims: int = 2) -> torch.Size:
    if name not in state_dict:
        raise ValueError(f"The checkpoint holds no tensor {name!r}, so it is no checkpoint of MedTVT-R1.")
    shape = state_dict[name].shape
    if len(shape) != num_dims:
        raise ValueError(f"The checkpoint's {name!r} has the shape {tuple(shape)}; {num_dims} dimensions are needed.")
    return shape


def _indices(state_dict: dict[str, torch.Tensor], pattern: str) -> list[int]:
    """Distinct values, ascending, of the pattern's number among the tensors' names."""
    matches = (re.match(pattern, name) for name in state_dict)
    return sorted({int(match[1]) for match in matches if match})


def build_config(state_dict: dict[str, torch.Tensor], params: dict, base_vocab_size: int) -> MedTVTConfig:
    """
    Reads the architecture off the tensors' shapes and, where they are silent, off `params.json`.

    Args:
        state_dict (`dict[str, torch.Tensor]`): Only names and shapes are used.
        params (`dict`): See [`read_params`]. Its `n_kv_heads` and `use_scaled_rope` are ignored, as by the authors:
            the key-value heads follow from `wk`, and RoPE is never scaled.
        base_vocab_size (`int`): Ranks of the tokenizer file; the special tokens sit behind them.

    Raises:
        ValueError: a tensor is missing, or the tensors contradict each other, `params` or the tokenizer.
    """
    vocab_size = _shape(state_dict, "llama.tok_embeddings.weight")[0]
    if vocab_size != base_vocab_size + NUM_SPECIAL_ROWS:
        raise ValueError(
            f"The tokenizer file has {base_vocab_size} ranks, but the checkpoint's embedding has {vocab_size} rows, "
            f"which needs {vocab_size - NUM_SPECIAL_ROWS} ranks: they do not belong together."
        )
    if params.get("vocab_size", vocab_size) != vocab_size:
        raise ValueError(
            f"`params.json` says vocab_size {params['vocab_size']}, the checkpoint's embedding has {vocab_size} rows."
        )
    use_perception = any(name.startswith(("DynamicWeighting.", "CyclicCrossModal")) for name in state_dict)
    token_ids: dict[str, Any] = {
        f"{token[1:-1]}_token_id": base_vocab_size + SPECIAL_TOKENS.index(token) for token in PLACEHOLDERS
    }
    return MedTVTConfig(
        text_config=_text_config(state_dict, params, base_vocab_size),
        ecg_config=ecg_config(state_dict),
        cxr_config=_cxr_config(state_dict),
        lab_config=MedTVTLabConfig(
            num_labs=_shape(state_dict, "lab_encoder.fc1.weight")[1] // 2,
            intermediate_size=_shape(state_dict, "lab_encoder.fc1.weight")[0],
            hidden_size=_shape(state_dict, "lab_encoder.fc2.weight")[0],
        ),
        **token_ids,
        projector_depth=len(_indices(state_dict, r"lab_fc_norm_(\d+)\.")),
        ecg_pooling_size=_shape(state_dict, "ecg_xresnet1d101_rnn.weight_hh_l0")[0],
        use_perception=use_perception,
        num_perception_heads=PERCEPTION_HEADS,
        fusion_scale=FUSION_SCALE,
        architectures=["MedTVTForCausalLM"],
        dtype="float32",
    )


def _text_config(state_dict: dict[str, torch.Tensor], params: dict, base_vocab_size: int) -> LlamaConfig:
    if params["dim"] % params["n_heads"]:
        raise ValueError(
            f"`params.json` contradicts itself: dim {params['dim']} is no multiple of n_heads {params['n_heads']}."
        )
    head_dim = params["dim"] // params["n_heads"]
    return LlamaConfig(
        vocab_size=_shape(state_dict, "llama.tok_embeddings.weight")[0],
        hidden_size=params["dim"],
        intermediate_size=_shape(state_dict, "llama.layers.0.feed_forward.w1.weight")[0],
        num_hidden_layers=params["n_layers"],
        num_attention_heads=params["n_heads"],
        # Full multi-head attention in all that the authors trained, whatever `params.json` says
        num_key_value_heads=max(_shape(state_dict, "llama.layers.0.attention.wk.weight")[0] // head_dim, 1),
        head_dim=head_dim,
        max_position_embeddings=MAX_LENGTH,
        rms_norm_eps=params["norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": float(params["rope_theta"])},
        attention_bias=True,
        mlp_bias=True,
        bos_token_id=base_vocab_size,
        eos_token_id=base_vocab_size + 1,
        pad_token_id=base_vocab_size + 1,
        tie_word_embeddings=False,
    )


def ecg_config(state_dict: dict[str, torch.Tensor]) -> MedTVTEcgConfig:
    """Depths and widths of an xresnet1d, off the shapes of its `ecg_encoder.*` tensors."""
    stem = [
        _shape(state_dict, f"ecg_encoder.{i}.0.weight", 3) for i in _indices(state_dict, r"ecg_encoder\.(\d+)\.0\.w")
    ]
    stages = _indices(state_dict, r"ecg_encoder\.(\d+)\.\d+\.convpath\.")
    if not stem or not stages:
        raise ValueError("The checkpoint holds no xresnet1d ECG encoder (`ecg_encoder.*`).")
    paths = [f"ecg_encoder.{i}.0.convpath.0" for i in stages]
    sizes = [_shape(state_dict, f"{path}.0.0.weight", 3)[0] for path in paths]
    return MedTVTEcgConfig(
        num_leads=stem[0][1],
        stem_sizes=[shape[0] for shape in stem],
        stage_sizes=sizes,
        depths=[len(_indices(state_dict, rf"ecg_encoder\.{i}\.(\d+)\.convpath\.")) for i in stages],
        expansion=_shape(state_dict, f"{paths[0]}.2.0.weight", 3)[0] // sizes[0],
        kernel_size=stem[0][2],
    )


def _cxr_config(state_dict: dict[str, torch.Tensor]) -> ViTConfig:
    embeddings = "vit_model.embeddings."
    hidden_size, num_channels, patch_size, _ = _shape(state_dict, f"{embeddings}patch_embeddings.projection.weight", 4)
    num_patches = _shape(state_dict, f"{embeddings}position_embeddings", 3)[1] - 1
    if hidden_size % VIT_HEAD_SIZE:
        raise ValueError(
            f"The checkpoint's ViT is {hidden_size} wide, which is no multiple of its heads' {VIT_HEAD_SIZE}."
        )
    return ViTConfig(
        hidden_size=hidden_size,
        num_hidden_layers=len(_indices(state_dict, r"vit_model\.encoder\.layer\.(\d+)\.")),
        num_attention_heads=hidden_size // VIT_HEAD_SIZE,
        intermediate_size=_shape(state_dict, "vit_model.encoder.layer.0.intermediate.dense.weight")[0],
        num_channels=num_channels,
        patch_size=patch_size,
        image_size=patch_size * round(num_patches**0.5),
    )


def _rotate_halves(tensor: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Reorders a head's rows from Meta's RoPE, which pairs neighbours, to that of transformers, which pairs halves."""
    return tensor.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _reorder_modalities(tensor: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """From the authors' order of modalities along `dim` (CXR, ECG, LAB) to ours (ECG, CXR, LAB)."""
    cxr, ecg, lab = tensor.unflatten(dim, (3, -1)).unbind(dim)
    return torch.cat((ecg, cxr, lab), dim)


def _rotation(target: str, config: MedTVTConfig) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the output rows of a query or key projection of the language model need; nothing for all else."""
    part = re.search(r"language_model\.layers\.\d+\.self_attn\.([qk])_proj\.", target)
    if part is None:
        return lambda tensor: tensor
    text_config = config.text_config
    num_heads = text_config.num_attention_heads if part[1] == "q" else text_config.num_key_value_heads
    return partial(_rotate_halves, num_heads=num_heads)


def source_name(target: str, config: MedTVTConfig) -> str:
    """The name that a tensor of ours has in the authors' files."""
    block = re.match(r"model\.ecg_encoder\.stages\.(\d+)\.(\d+)\.(convolutions|shortcut)\.", target)
    if block:
        # Stem and its pooling come first; a strided shortcut has its pooling before the convolution
        index = len(config.ecg_config.stem_sizes) + 1 + int(block[1])
        path = "convpath.0" if block[3] == "convolutions" else f"idpath.{int(block[1] != '0')}"
        return f"ecg_encoder.{index}.{block[2]}.{path}.{target[block.end() :]}"
    pattern, replacement = next(pair for pair in SOURCE_NAMES if re.match(pair[0], target))
    return re.sub(pattern, replacement, target, count=1)


def _recipe(target: str, shape: torch.Size, config: MedTVTConfig, merge_lora: bool) -> Recipe:
    """How `target` is made from the file. LoRA has no alpha: y = W x + B (A x)."""
    if re.search(r"(perception\.absent_embeds|language_model\..*\.[kv]_proj\.bias)$", target):
        # The authors have no such parameters, and at zero they do nothing
        return Recipe((), lambda: torch.zeros(shape))
    source = source_name(target, config)
    in_proj = re.search(r"perception\.attention\.([qkv])_proj", target)
    if in_proj:
        return Recipe((source,), lambda tensor: tensor.unflatten(0, (3, -1))["qkv".index(in_proj[1])])
    if target.endswith("perception.gate.bias"):
        return Recipe((source,), _reorder_modalities)
    if target.endswith("perception.gate.weight"):
        return Recipe((source,), lambda tensor: _reorder_modalities(_reorder_modalities(tensor), dim=1))
    rotate = _rotation(target, config)
    if merge_lora and LORA_TARGETS.fullmatch(target):
        return Recipe((source, *_lora_sources(source)), lambda w, a, b: rotate(w.float() + b.float() @ a.float()))
    return Recipe((source,), rotate)


def _lora_sources(source: str) -> tuple[str, ...]:
    """`....wq.weight` -> `....lora_wq_l1.weight`, `....lora_wq_l2.weight`."""
    return tuple(re.sub(r"\.(w\w+)\.weight", rf".lora_\1_l{i}.weight", source) for i in (1, 2))


def _adapter_recipes(
    shapes: dict[str, torch.Size], rank: int, config: MedTVTConfig
) -> tuple[dict[str, Recipe], dict[str, torch.Size]]:
    """Recipes and shapes of a PEFT adapter's tensors."""
    recipes, adapter_shapes = {}, {}
    for target in filter(LORA_TARGETS.fullmatch, shapes):
        first, second = _lora_sources(source_name(target, config))
        name = f"base_model.model.{target.removesuffix('.weight')}"
        recipes[f"{name}.lora_A.weight"] = Recipe((first,), lambda a: a)
        recipes[f"{name}.lora_B.weight"] = Recipe((second,), _rotation(target, config))
        adapter_shapes[f"{name}.lora_A.weight"] = torch.Size((rank, shapes[target][1]))
        adapter_shapes[f"{name}.lora_B.weight"] = torch.Size((shapes[target][0], rank))
    return recipes, adapter_shapes


def _kept_twin(name: str) -> str | None:
    """The other registration of an ECG convolution: `convs.I...` -> `convpath.0.I...`."""
    match = DUPLICATE.fullmatch(name)
    return f"{match[1]}convpath.0.{match[2]}" if match else None


def _reason_to_drop(name: str, state_dict: dict[str, torch.Tensor]) -> str | None:
    twin = _kept_twin(name)
    if twin is not None and twin not in state_dict:
        return None
    return next((reason for reason, pattern in DROPPED.items() if pattern.fullmatch(name)), None)


def _check_recipes(
    recipes: dict[str, Recipe], shapes: dict[str, torch.Size], state_dict: dict[str, torch.Tensor]
) -> dict[str, list[str]]:
    """
    Runs every recipe on shapes alone, so that a file that does not fit is refused before anything is written.

    Returns:
        The names of the tensors that no recipe uses, by the reason why that is right.
    """
    used = {source for recipe in recipes.values() for source in recipe.sources}
    dropped: dict[str, list[str]] = {reason: [] for reason in DROPPED}
    unknown: list[str] = []
    for name in state_dict:
        if name not in used:
            reason = _reason_to_drop(name, state_dict)
            (unknown if reason is None else dropped[reason]).append(name)
    for problem, names in (("lacks", sorted(used - set(state_dict))), ("has, beside all that is known,", unknown)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(f"The checkpoint {problem} the tensor(s) {', '.join(names[:5])}{more}.")
    for target, recipe in recipes.items():
        sources = [torch.empty_like(state_dict[source], device="meta") for source in recipe.sources]
        found = ", ".join(f"{name} {tuple(state_dict[name].shape)}" for name in recipe.sources)
        try:
            shape = recipe.function(*sources).shape
        except (RuntimeError, IndexError) as error:
            raise ValueError(f"The checkpoint's shapes contradict each other at {found}: {error}") from error
        if shape != shapes[target]:
            raise ValueError(
                f"The checkpoint's shapes contradict each other or `params.json`: {found} would become {target} "
                f"{tuple(shape)}, but the rest asks for {tuple(shapes[target])}."
            )
    return dropped


def _provenance(config: MedTVTConfig, is_flat: bool) -> Provenance:
    """A file without a perception layer is of PT; a bare state dict is of RFT. MedTVT-QA is built from MIMIC."""
    stage = ("rft" if is_flat else "sft") if config.use_perception else "pt"
    return Provenance(stage, [{"stage": stage, "name": "MedTVT-QA", "access": "credentialed"}])


def _plan(state_dict: dict[str, torch.Tensor], config: MedTVTConfig, keep_lora: bool) -> Plan:
    with torch.device("meta"):
        reference = MedTVTForCausalLM(config).state_dict()
    shapes = {name: tensor.shape for name, tensor in reference.items()}
    recipes = {name: _recipe(name, shape, config, not keep_lora) for name, shape in shapes.items()}
    rank = _shape(state_dict, "llama.layers.0.attention.lora_wq_l1.weight")[0]
    adapter, adapter_shapes = _adapter_recipes(shapes, rank, config) if keep_lora else ({}, {})
    dropped = _check_recipes({**recipes, **adapter}, {**shapes, **adapter_shapes}, state_dict)
    return Plan(reference, recipes, adapter, rank, dropped)


@torch.no_grad()
def _convert(recipe: Recipe, state_dict: dict[str, torch.Tensor]) -> torch.Tensor:
    tensor = recipe.function(*(state_dict[source] for source in recipe.sources))
    # Out of the file's mapping; merged LoRA would lose digits in the half precision of the frozen matrices
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.to(dtype, memory_format=torch.contiguous_format, copy=True)


def _write_weights(
    recipes: dict[str, Recipe], reference: dict[str, torch.Tensor], state_dict: dict[str, torch.Tensor], folder: Path
) -> None:
    """Converts and writes one shard after the other; `reference` holds the same names as tensors without storage."""
    split = split_torch_state_dict_into_shards(
        reference, filename_pattern="model{suffix}.safetensors", max_shard_size=MAX_SHARD_SIZE
    )
    with tqdm(total=len(recipes), desc="Converting", unit="tensor") as progress:
        for file_name, names in split.filename_to_tensors.items():
            shard = {}
            for name in names:
                shard[name] = _convert(recipes[name], state_dict)
                progress.update()
            save_file(shard, folder / file_name, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_adapter(
    recipes: dict[str, Recipe], rank: int, state_dict: dict[str, torch.Tensor], folder: Path, base_folder: Path
) -> None:
    from peft import LoraConfig

    tensors = {name: _convert(recipe, state_dict) for name, recipe in recipes.items()}
    adapter_config = LoraConfig(
        base_model_name_or_path=os.fspath(base_folder),
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=rank,  # scale 1
        target_modules=LORA_MODULES,
        inference_mode=True,
    )
    adapter_config.save_pretrained(os.fspath(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _warn_of_duplicates(state_dict: dict[str, torch.Tensor]) -> None:
    twins = {name: _kept_twin(name) for name in state_dict}
    different = [name for name, twin in twins.items() if twin and not torch.equal(state_dict[name], state_dict[twin])]
    if different:
        logger.warning(
            f"{len(different)} tensors differ between the two registrations of the ECG blocks, for example "
            f"{different[0]}. As in the authors' own loading, `convpath` counts and `convs` does not."
        )


def convert_checkpoint(
    checkpoint: str | os.PathLike,
    params: str | os.PathLike,
    tokenizer: str | os.PathLike,
    lab_means: str | os.PathLike,
    output_dir: str | os.PathLike,
    keep_lora: bool = False,
    require_perception: bool = False,
) -> dict[str, list[str]]:
    """
    Writes a folder with weights (float32, safetensors), config, generation config and processor, complete or not at
    all. Tensors are converted one by one, so memory stays below the checkpoint's size and one shard.

    Args:
        checkpoint (`str` or `os.PathLike`): The authors' PT, SFT or RFT file; see [`read_checkpoint`].
        params (`str` or `os.PathLike`): Meta's `params.json`.
        tokenizer (`str` or `os.PathLike`): Meta's `tokenizer.model` of Llama 3.
        lab_means (`str` or `os.PathLike`): The authors' `labs_means.json`: labs and their mean percentiles.
        output_dir (`str` or `os.PathLike`): Folder to make; it must not exist or be empty.
        keep_lora (`bool`): Whether `output_dir` becomes a PEFT adapter that names its base, `output_dir/base`, instead
            of a model with LoRA merged. PEFT keeps the base's absolute path: a folder that moves must be told again.
        require_perception (`bool`): Whether to refuse a PT file, which has no perception layer.

    Returns:
        `dict[str, list[str]]`: The tensors left out, by reason.

    Raises:
        FileNotFoundError: an input is missing.
        ValueError: an input is not what it should be, or the inputs contradict each other.
        FileExistsError: `output_dir` is a file or holds something.
        ImportError: `keep_lora` without PEFT.
    """
    check_new_folder(output_dir)
    if keep_lora and not is_peft_available():
        raise ImportError("Keeping LoRA as an adapter needs PEFT: pip install peft. Without it, LoRA can be merged.")
    sizes = read_params(params)
    fast_tokenizer = convert_tokenizer(tokenizer)
    state_dict, is_flat = read_checkpoint(checkpoint)
    config = build_config(state_dict, sizes, fast_tokenizer.bos_token_id)
    if require_perception and not config.use_perception:
        raise ValueError(
            f"Checkpoint {checkpoint}: has no perception layer (`DynamicWeighting.*`, `CyclicCrossModalAttention.*`), "
            "so it is a PT file; an SFT or RFT file is needed."
        )
    processor = build_processor(config, fast_tokenizer, lab_means)
    provenance = _provenance(config, is_flat)
    plan = _plan(state_dict, config, keep_lora)
    _warn_of_duplicates(state_dict)

    with new_folder(output_dir) as folder:
        # An adapter's folder holds its base, not the other way round: opened as a model, it must not lack its LoRA
        base_folder = folder / BASE_FOLDER if keep_lora else folder
        base_folder.mkdir(exist_ok=True)
        _write_weights(plan.recipes, plan.reference, state_dict, base_folder)
        config.save_pretrained(base_folder)
        provenance.save_pretrained(folder)
        build_generation_config(fast_tokenizer).save_pretrained(base_folder)
        processor.save_pretrained(base_folder)
        if keep_lora:
            _write_adapter(plan.adapter, plan.rank, state_dict, folder, Path(output_dir).absolute() / BASE_FOLDER)
            provenance.save_pretrained(base_folder)
            processor.save_pretrained(folder)
    return plan.dropped
