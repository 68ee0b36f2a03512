# SPDX-License-Identifier: Apache-2.0
"""One patient or many through the pipeline, and what in the inputs an answer depends on."""
