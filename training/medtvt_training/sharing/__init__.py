# SPDX-License-Identifier: Apache-2.0
"""Cards, and the way to the Hub."""
