# SPDX-License-Identifier: Apache-2.0
import time

import pytest

from modeling_medtvt import parse_answer


@pytest.mark.parametrize(
    ("text", "reasoning", "answer", "diseases", "unknown"),
    [
        ("<think>a</think><answer>Sepsis; pneumonia</answer>", "a", "Sepsis; pneumonia", ("Sepsis", "Pneumonia"), ()),
        ("<answer></answer>", None, "", (), ()),
        ("<answer>Gout;; Sepsis;Sepsis</answer><answer>Pneumonia</answer>", None, "Gout;; Sepsis;Sepsis", ("Sepsis",), ("Gout",)),
        ("</answer><answer>Sepsis", None, None, (), ()),
        ("<answer><answer>Sepsis</answer>", None, "<answer>Sepsis", (), ("<answer>Sepsis",)),
        ("nothing", None, None, (), ()),
    ],
)  # fmt: skip
def test_blocks(text, reasoning, answer, diseases, unknown):
    found = parse_answer(text)
    assert (found.reasoning, found.answer, found.diseases, found.unknown) == (reasoning, answer, diseases, unknown)


@pytest.mark.parametrize("tag", ["<answer>", "<think>"])
def test_time_grows_with_the_length_and_not_with_its_square(tag):
    def seconds(number):
        start = time.process_time()
        parse_answer(tag * number)
        return time.process_time() - start

    seconds(1000)
    short, long = min(seconds(20_000) for _ in range(3)), min(seconds(400_000) for _ in range(3))
    assert long < 100 * max(short, 1e-5)  # 400 times if it were quadratic
