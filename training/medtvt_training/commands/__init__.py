# SPDX-License-Identifier: Apache-2.0
"""
The subcommands of `medtvt`, one file each. A file imports at its top what its options need, and that is quick to import;
what takes seconds (torch, transformers, datasets, and what uses them) is imported in `run`.
"""
