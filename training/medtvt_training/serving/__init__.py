# SPDX-License-Identifier: Apache-2.0
"""The pipeline behind HTTP: patients come as JSON, wait in a queue, and are answered in batches."""
