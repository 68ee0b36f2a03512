# SPDX-License-Identifier: Apache-2.0
"""Answers through vLLM held against those of transformers: `make vllm-test`."""
