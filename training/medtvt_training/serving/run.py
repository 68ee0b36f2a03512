# SPDX-License-Identifier: Apache-2.0
"""Runs the server until it is stopped."""

import ipaddress
import logging
import os
import socket
from pathlib import Path

import uvicorn

from modeling_medtvt import MedicalDiagnosisPipeline
from processing_medtvt.report_medtvt import RESEARCH_USE

from ..files import hash_folder
from .app import Limits, ServedModel, create_app


logger = logging.getLogger(__name__)

GRACE = 10  # seconds for answers that are begun when the server is stopped


def serve(diagnose: MedicalDiagnosisPipeline, folder: str | os.PathLike, host: str, port: int, limits: Limits) -> None:
    """
    Answers requests until SIGINT or SIGTERM.

    Args:
        diagnose ([`MedicalDiagnosisPipeline`]): Answers.
        folder (`str` or `os.PathLike`): Its checkpoint.
        host, port: Where to listen; port 0 takes a free one.
        limits ([`Limits`]): Of requests.

    Raises:
        OSError: if it cannot listen there.
    """
    served = ServedModel(Path(folder).resolve().name, hash_folder(folder)[:16])
    app = create_app(diagnose, served, limits)
    listening = _listen(host, port)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=GRACE
    )
    if not _is_loopback(host):
        logger.warning(
            "%s is open to other machines, without passwords or encryption: put a proxy with both before it", host
        )
    name = f"[{host}]" if ":" in host else host
    logger.info(
        "%s (%s) at http://%s:%d. %s", served.name, served.fingerprint, name, listening.getsockname()[1], RESEARCH_USE
    )
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 65536:
        raise ValueError(f"--port must be 0 to 65535, got {port}.")
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        raise OSError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}. --host and --port choose."
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
