# SPDX-License-Identifier: Apache-2.0
"""
How well drawn ECGs and films are told from real ones by what the encoders make of them:

    python -m tests.benchmarks.drawn_real --model encoders/final --data cohort --open-data open

The logistic regression of `medtvt probe`, by five folds over patients, on the training splits' inputs, as many drawn as real.
0.5: not at all; 1: always.
"""

import argparse
import tempfile

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medtvt_training.data.feature_cache import FeatureCache
from medtvt_training.data.load import load_medtvt_qa
from medtvt_training.data.rows import Modality
from medtvt_training.evaluation.probe import PENALTIES, encode_inputs
from medtvt_training.stages.findings_dataset import read_inputs
from modeling_medtvt.checkpoint_folder import open_checkpoint


FOLDS = 5


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
            limit, sides = None, []
            for data in (args.open_data, args.data):
                rows = read_inputs(data, modality, ("train",))["train"][:limit]
                dataset = load_medtvt_qa(data, "physiology", "train")
                sides.append(encode_inputs(model, cache, dataset, modality, rows))
                limit = len(rows)
            real, drawn = sides
            truth = np.repeat([1, 0], [len(real["rows"]), len(drawn["rows"])])
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTIES["encoder"], max_iter=1000))
            scores = cross_val_predict(
                probe,
                np.concatenate([real["encoder"], drawn["encoder"]]),
                truth,
                groups=real["subjects"] + drawn["subjects"],
                cv=GroupKFold(FOLDS, shuffle=True, random_state=0),
                method="decision_function",
            )
            area = roc_auc_score(truth, scores)
            print(f"{modality}: AUROC {area:.3f}, {truth.sum()} real and {len(truth) - truth.sum()} drawn inputs")


if __name__ == "__main__":
    main()
