# SPDX-License-Identifier: Apache-2.0
"""Time to import the package over that of what it is made of in transformers, each in a fresh process."""

from functools import partial

from .harness import Row, Settings, divide, interleave, medians, run_python


STATEMENTS = {
    "modeling_medtvt": "import modeling_medtvt",
    "transformers": "from transformers import LlamaForCausalLM, Pipeline, ViTModel",
}
CODE = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def measure(settings: Settings) -> list[Row]:
    sides = {name: partial(run_python, ["-c", CODE.format(line)]) for name, line in STATEMENTS.items()}
    found = interleave(sides, settings.repeats)
    return [
        Row(
            "import",
            f"`{STATEMENTS['modeling_medtvt']}` over `{STATEMENTS['transformers']}`",
            divide(found["modeling_medtvt"], found["transformers"]),
            at_most=1.05,
            note=medians(found),
        )
    ]
