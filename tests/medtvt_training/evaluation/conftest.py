# SPDX-License-Identifier: Apache-2.0
import pytest

from medtvt_training.data.load import load_medtvt_qa

from tests.medtvt_training.toy_dataset import write_toy_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_toy_dataset(tmp_path_factory.mktemp("data"), patients=6)


@pytest.fixture
def rows(data):
    return load_medtvt_qa(data, "diagnosis", "test").to_list()
