# SPDX-License-Identifier: Apache-2.0
"""Scores of pairs of texts, each computed once: the metrics, their intervals and comparisons only weigh them."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from processing_medtvt.claims_medtvt import stated_findings

from ..files import fingerprint, hash_file, hash_folder, read_json, write_json
from .bootstrap import Metric, mean_metric, undefined_metric
from .text_metrics import (
    BERT_SCORE_LAYER,
    BertScorer,
    bleu_statistics,
    corpus_bleu,
    meteor_scores,
    rouge_l_scores,
    rouge_n_scores,
    sentence_bleu_scores,
)


SCORES_FILE = "text_scores.json"


@dataclass(frozen=True)
class TextResources:
    """
    Resources of METEOR and BERTScore that the package does not include. A metric without its resource is skipped.

    Args:
        wordnet (`str`, *optional*): `nltk_data` folder with WordNet, for METEOR.
        encoder (`str`, *optional*): Folder of an encoder, for BERTScore (RoBERTa-large in the paper).
        encoder_layer (`int`, *optional*): Its layer; 17 by default.
    """

    wordnet: str | None = None
    encoder: str | None = None
    encoder_layer: int | None = None

    @property
    def skipped(self) -> list[str]:
        """One line for each metric that is skipped."""
        lines = []
        if self.wordnet is None:
            lines.append("METEOR is skipped: it needs WordNet; name its folder with --wordnet.")
        if self.encoder is None:
            lines.append("BERTScore is skipped: it needs an encoder; name its folder with --bert-score-encoder.")
        return lines


class TextScorer:
    """
    Scores completions against their references. A pair of texts that was scored before is looked up.

    Args:
        resources ([`TextResources`], *optional*): Of METEOR and BERTScore.
        store (`str` or `os.PathLike`, *optional*): File that keeps the scores for later runs; read if it exists. Scores
            that another version or another resource made are made anew.
        device (`str`): Of BERTScore's encoder, which is loaded once, when it is first needed.

    Raises:
        ValueError: if the store is none.
    """

    def __init__(
        self,
        resources: TextResources | None = None,
        store: str | os.PathLike | None = None,
        device: str = "cpu",
    ) -> None:
        self.resources, self.store, self.device = resources or TextResources(), store, device
        self._bert: BertScorer | None = None
        self._findings: dict[str, set[str]] = {}
        self._functions: dict[str, Callable[[Sequence[str], Sequence[str]], np.ndarray]] = {
            "bleu": sentence_bleu_scores,
            "bleu_statistics": bleu_statistics,
            "rouge1": lambda references, completions: rouge_n_scores(references, completions, 1),
            "rouge2": lambda references, completions: rouge_n_scores(references, completions, 2),
            "rougeL": rouge_l_scores,
            "rougeL_stems": lambda references, completions: rouge_l_scores(references, completions, stem=True),
        }
        if self.resources.wordnet is not None:
            self._functions["meteor"] = self._meteor
        if self.resources.encoder is not None:
            self._functions["bert_score"] = self._bert_score
        self._made_by = {name: self._signature(name) for name in self._functions}
        # by name of the score, then by fingerprint of the two texts
        self._scores: dict[str, dict[str, Any]] = {name: {} for name in self._functions}
        if store is not None and Path(store).exists():
            self._read(read_json(store))

    def score(self, references: Sequence[str], completions: Sequence[str]) -> dict[str, np.ndarray]:
        """By name of the score, (records,) or (records, numbers)."""
        keys = [fingerprint(pair) for pair in zip(references, completions)]
        pairs = dict(zip(keys, zip(references, completions)))
        found, new = {}, False
        for name, function in self._functions.items():
            known = self._scores[name]
            missing = [key for key in pairs if key not in known]
            if missing:
                sides = ([pairs[key][i] for key in missing] for i in (0, 1))
                known.update(zip(missing, function(*sides).tolist()))
                new = True
            found[name] = np.array([known[key] for key in keys], dtype=float)
        if new and self.store is not None:
            write_json({"made_by": self._made_by, "scores": self._scores}, self.store)
        return found

    def findings(self, text: str) -> set[str]:
        """The findings that a text states."""
        if text not in self._findings:
            self._findings[text] = stated_findings(text)
        return self._findings[text]

    def metrics(self, references: Sequence[str], completions: Sequence[str]) -> dict[str, Metric]:
        """
        Metrics of the texts. `paper/rouge` is the recall of ROUGE-L on stems, `paper/bert_score` the recall as well.
        """
        scores = self.score(references, completions)
        statistics = scores["bleu_statistics"]
        metrics = {
            "paper/bleu": mean_metric(scores["bleu"]),
            "paper/rouge": mean_metric(scores["rougeL_stems"][:, 0]),
            "strict/bleu": Metric(lambda weights: np.array([corpus_bleu(row) for row in weights @ statistics])),
            "strict/rouge1": mean_metric(scores["rouge1"]),
            "strict/rouge2": mean_metric(scores["rouge2"]),
            "strict/rougeL": mean_metric(scores["rougeL"][:, 1]),
        }
        no_wordnet, no_encoder = undefined_metric("skipped: no WordNet"), undefined_metric("skipped: no encoder")
        for mode, column in (("paper", 1), ("strict", 2)):
            metrics[f"{mode}/meteor"] = mean_metric(scores["meteor"]) if "meteor" in scores else no_wordnet
            has_bert = "bert_score" in scores
            metrics[f"{mode}/bert_score"] = mean_metric(scores["bert_score"][:, column]) if has_bert else no_encoder
        return metrics

    def _meteor(self, references: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        return meteor_scores(references, completions, str(self.resources.wordnet))

    def _bert_score(self, references: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        if self._bert is None:
            self._bert = BertScorer(str(self.resources.encoder), self._layer, self.device)
        return self._bert.score(references, completions)

    @property
    def _layer(self) -> int:
        layer = self.resources.encoder_layer
        return BERT_SCORE_LAYER if layer is None else layer

    def _signature(self, name: str) -> str:
        """What a score depends on beside the two texts."""
        if name == "bert_score":
            folder = Path(str(self.resources.encoder))
            return f"{hash_folder(folder) if folder.is_dir() else ''}, layer {self._layer}"
        if name == "meteor":
            corpora = Path(str(self.resources.wordnet), "corpora")
            files = sorted(file for file in corpora.glob("wordnet*/*") if file.is_file()) or [corpora / "wordnet.zip"]
            return fingerprint(hash_file(file) for file in files if file.exists())
        package = {"bleu": "nltk", "bleu_statistics": "sacrebleu"}.get(name, "rouge-score")
        return f"{package} {version(package)}"

    def _read(self, stored: Any) -> None:
        if not isinstance(stored, dict) or not {"made_by", "scores"} <= stored.keys():
            raise ValueError(f"{self.store} holds no scores of texts; remove it, or choose another folder.")
        for name, signature in stored["made_by"].items():
            # what is not asked for this time is kept
            if self._made_by.setdefault(name, signature) == signature:
                self._scores[name] = stored["scores"][name]
