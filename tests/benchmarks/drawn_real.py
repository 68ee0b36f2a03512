# SPDX-License-Identifier: Apache-2.0
"""
How well drawn ECGs and films are told from real ones by what the encoders make of them:

    python -m tests.benchmarks.drawn_real --model encoders/final --data cohort --open-data open

A logistic regression on the encoder's pooled features, by five folds over patients, as many drawn as real. 0.5: not at all;
1: always.
"""

import argparse
import tempfile
from typing import cast

import numpy as np
from datasets import concatenate_datasets
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medtvt_training.data.feature_cache import FeatureCache
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.data.rows import Modality, QARow
from medtvt_training.data.schema import SPLITS
from modeling_medtvt.checkpoint_folder import open_checkpoint


FOLDS = 5


def pool_features(
    cache: FeatureCache, folder: str, modality: Modality, limit: int | None
) -> tuple[np.ndarray, list[str]]:
    """Features (inputs, size), the mean over positions and for films their greatest too, and the patient of each."""
    dataset = concatenate_datasets([load_medtvt_qa(folder, "physiology", split) for split in SPLITS])
    places: dict[str, int] = {}  # a row of each input
    for i, (path, modalities) in enumerate(zip(dataset[modality], dataset["modalities"])):
        if path and list(modalities) == [modality]:
            places.setdefault(path, i)
    dataset = dataset.select(list(places.values())[:limit])
    cache.build(dataset)
    pooled = []
    for row in dataset:
        features = cache.get(cast(QARow, row), modality).float()
        pooled.append(np.concatenate([features.mean(0), *([features.amax(0)] if modality == "cxr" else [])]))
    return np.stack(pooled), list(dataset["subject_id"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--data", required=True, help="cohort")
    parser.add_argument("--open-data", required=True, help="folder of `medtvt open-data`")
    args = parser.parse_args()
    model, processor = open_checkpoint(args.model)
    modalities: tuple[Modality, ...] = ("ecg", "cxr")
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(folder, model, processor)
        for modality in modalities:
            real, of_real = pool_features(cache, args.open_data, modality, None)
            drawn, of_drawn = pool_features(cache, args.data, modality, len(real))
            truth = np.repeat([1, 0], [len(real), len(drawn)])
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
            scores = cross_val_predict(
                probe,
                np.concatenate([real, drawn]),
                truth,
                groups=of_real + of_drawn,
                cv=GroupKFold(FOLDS, shuffle=True, random_state=0),
                method="decision_function",
            )
            print(
                f"{modality}: AUROC {roc_auc_score(truth, scores):.3f}, {len(real)} real and {len(drawn)} drawn inputs"
            )


if __name__ == "__main__":
    main()
