# SPDX-License-Identifier: Apache-2.0
"""The subcommands of `medtvt`, one file each."""
