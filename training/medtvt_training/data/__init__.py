# SPDX-License-Identifier: Apache-2.0
"""MedTVT-QA: its schema, loading it, batches of it, and the cache of the frozen encoders' outputs."""
