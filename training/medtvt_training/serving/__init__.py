# SPDX-License-Identifier: Apache-2.0
"""The pipeline behind HTTP: patients come as JSON, wait in a queue, and are answered in batches."""

# Where the vLLM is looked for that writes texts and rollouts
DEFAULT_ENGINE_URL = "http://127.0.0.1:8001"
