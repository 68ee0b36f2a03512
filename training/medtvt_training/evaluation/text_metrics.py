# SPDX-License-Identifier: Apache-2.0
"""How near a completion is to its reference, one value a record. All of it runs offline."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import nltk
import numpy as np
import torch
from nltk.corpus.reader.wordnet import WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader
from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import sentence_bleu
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize
from sacrebleu.metrics import BLEU
from transformers import AutoModel, AutoTokenizer


# The layer of RoBERTa-large that BERTScore's authors chose, and so the default of `score(lang="en")`
BERT_SCORE_LAYER = 17
# nltk's wordpunct_tokenize, which takes a third of the time of a sentence's BLEU
_WORDS = re.compile(r"\w+|[^\w\s]+")


def sentence_bleu_scores(references: Sequence[str], completions: Sequence[str]) -> np.ndarray:
    """BLEU-4 of each completion, (records,): words and punctuation as tokens, unsmoothed: 0 without a shared 4-gram."""
    with warnings.catch_warnings():  # nltk says so once a record
        warnings.filterwarnings("ignore", message=r"\s*The hypothesis contains 0 counts")
        return np.array(
            [
                sentence_bleu([_WORDS.findall(reference)], _WORDS.findall(completion))
                for reference, completion in zip(references, completions)
            ]
        )


class _Words:
    """rouge_score's tokens, for its scorer."""

    def __init__(self, stem: bool) -> None:
        self.stemmer = _Stemmer() if stem else None

    def tokenize(self, text: str) -> list[str]:
        return tokenize(text, self.stemmer)


class _Stemmer:
    """Porter stems, each word once."""

    def __init__(self) -> None:
        self.stem = lru_cache(maxsize=100_000)(PorterStemmer().stem)


def rouge_n_scores(references: Sequence[str], completions: Sequence[str], n: int) -> np.ndarray:
    """F-measure of ROUGE-n of each completion, (records,)."""
    scorer = RougeScorer([f"rouge{n}"], tokenizer=_Words(stem=False))
    return np.array([scorer.score(*pair)[f"rouge{n}"].fmeasure for pair in zip(references, completions)])


def rouge_l_scores(references: Sequence[str], completions: Sequence[str], stem: bool = False) -> np.ndarray:
    """
    ROUGE-L of each completion, (records, 2) of recall and F-measure. rouge_score's own fills a table for each pair.

    Args:
        stem (`bool`): Porter stems instead of words.
    """
    words, rows = _Words(stem), []
    for reference, completion in zip(references, completions):
        expected, found = words.tokenize(reference), words.tokenize(completion)
        common = common_subsequence_length(expected, found)
        rows.append((common / max(len(expected), 1), 2 * common / max(len(expected) + len(found), 1)))
    return np.array(rows, dtype=float).reshape(-1, 2)


def common_subsequence_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table as the bits of one number (Hyyro 2004)."""
    places: dict[str, int] = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << i
    row = whole = (1 << len(first)) - 1
    for word in second:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & whole
    return len(first) - row.bit_count()


def bleu_statistics(references: Sequence[str], completions: Sequence[str]) -> np.ndarray:
    """
    What corpus BLEU is made of, (records, 10): matches and totals of 1- to 4-grams, lengths of completion and reference.
    Sums of rows go to [`corpus_bleu`].
    """
    bleu = BLEU(effective_order=True)  # the order matters for the score of a sentence alone, which is not used
    rows = []
    for reference, completion in zip(references, completions):
        score = bleu.sentence_score(completion, [reference])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, dtype=float).reshape(-1, 10)


def corpus_bleu(statistics: np.ndarray) -> float:
    """Corpus BLEU, 0 to 1, of a sum of rows of [`bleu_statistics`]."""
    counts = [int(value) for value in statistics]
    return BLEU.compute_bleu(counts[:4], counts[4:8], counts[8], counts[9], smooth_method="exp").score / 100


def bleu_signature() -> str:
    """sacrebleu's signature of [`corpus_bleu`]."""
    bleu = BLEU()
    bleu.corpus_score(["a"], [["a"]])
    return str(bleu.get_signature())


@contextmanager
def open_wordnet(folder: str | os.PathLike) -> Iterator[WordNetCorpusReader]:
    """
    WordNet from a local `nltk_data` folder, which holds `corpora/wordnet.zip`, or `corpora/wordnet` unpacked.

    Raises:
        ValueError: if no WordNet is there.
    """
    folder = str(Path(folder).resolve())
    if not any(Path(folder, "corpora", name).exists() for name in ("wordnet", "wordnet.zip")):
        raise ValueError(f"{folder}: no WordNet here; a folder with corpora/wordnet.zip or corpora/wordnet is needed.")
    nltk.data.path.insert(0, folder)  # nltk reads corpora from its list of folders and from nowhere else
    try:
        with warnings.catch_warnings():  # of other languages, which are not needed
            warnings.filterwarnings("ignore", message="The multilingual functions")
            try:
                wordnet = LazyCorpusLoader("wordnet", WordNetCorpusReader, None)
                wordnet.ensure_loaded()
            except (OSError, LookupError, ValueError, AssertionError) as error:
                raise ValueError(f"{folder}: WordNet does not open ({type(error).__name__}).") from error
        yield wordnet
    finally:
        nltk.data.path.remove(folder)


def meteor_scores(
    references: Sequence[str], completions: Sequence[str], wordnet_folder: str | os.PathLike
) -> np.ndarray:
    """METEOR of each completion, (records,), with words and punctuation as tokens, and synonyms of a local WordNet."""
    with open_wordnet(wordnet_folder) as wordnet:
        return np.array(
            [
                meteor_score([_WORDS.findall(reference)], _WORDS.findall(completion), wordnet=wordnet)
                for reference, completion in zip(references, completions)
            ]
        )


class BertScorer:
    """
    BERTScore (arXiv 1904.09675) with cosines between the tokens of two texts, each token with its nearest, without
    importance weights and without rescaling. First and last special token are matched with but not counted.

    Args:
        encoder (`str` or `os.PathLike`): Local folder of an encoder of transformers with its tokenizer.
        layer (`int`): Whose hidden states are compared; 17 of RoBERTa-large is the score's default for English.
        device (`str`): Where it runs.

    Raises:
        ValueError: if the encoder does not open or has fewer layers.
    """

    def __init__(self, encoder: str | os.PathLike, layer: int = BERT_SCORE_LAYER, device: str = "cpu") -> None:
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
            self.model = AutoModel.from_pretrained(encoder, local_files_only=True).eval().to(device)
        except (OSError, ValueError) as error:
            raise ValueError(f"{encoder} does not open as an encoder of transformers. {error}") from error
        config = self.model.config
        if not 1 <= layer <= config.num_hidden_layers:
            raise ValueError(f"{encoder} has {config.num_hidden_layers} layers, so `layer` cannot be {layer}.")
        self.layer, self.device = layer, device
        self.limit = min(self.tokenizer.model_max_length, config.max_position_embeddings - 2)

    def score(self, references: Sequence[str], completions: Sequence[str], batch_size: int = 16) -> np.ndarray:
        """(records, 3) of precision, recall and F1 of each completion; an empty text scores 0."""
        scores = []
        for start in range(0, len(references), batch_size):
            rows = slice(start, start + batch_size)
            sides = (self._encode(completions[rows]), self._encode(references[rows]))
            scores.append(_match_tokens(*sides).cpu().numpy())
        return np.concatenate(scores) if scores else np.zeros((0, 3))

    @torch.no_grad()
    def _encode(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Directions of the tokens, (texts, tokens, width), which of them are no padding, and which count."""
        # a space before the first word, which byte-level tokenizers tell from none
        batch = self.tokenizer(
            [f" {text.strip()}" if text.strip() else "" for text in texts],
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.limit,
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        special = batch.pop("special_tokens_mask").bool().to(self.device)
        batch = batch.to(self.device)
        states = self.model(**batch, output_hidden_states=True).hidden_states[self.layer]
        mask = batch["attention_mask"].bool()
        return torch.nn.functional.normalize(states.float(), dim=-1), mask, mask & ~special


def _match_tokens(candidate: Any, reference: Any) -> Any:
    """(rows, 3): precision, recall and F1 of two sides, each states, mask and mask of the tokens that count."""
    (a, a_mask, a_counted), (b, b_mask, b_counted) = candidate, reference
    similarity = a @ b.transpose(1, 2)
    similarity = similarity.masked_fill(~(a_mask[:, :, None] & b_mask[:, None, :]), -1)

    def mean(best: Any, counted: Any) -> Any:
        return (best * counted).sum(1) / counted.sum(1).clamp(min=1)

    empty = (a_counted.sum(1) == 0) | (b_counted.sum(1) == 0)
    precision = mean(similarity.amax(2), a_counted).masked_fill(empty, 0)
    recall = mean(similarity.amax(1), b_counted).masked_fill(empty, 0)
    f1 = (2 * precision * recall / (precision + recall)).nan_to_num(0)
    return torch.stack([precision, recall, f1], 1)
