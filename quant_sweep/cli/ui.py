"""`quant-sweep-ui`: serve MLflow's pages over a local store, and print where each experiment shows its results."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from omegaconf import DictConfig

from quant_sweep.cli.hydra_app import one_line_errors, run_hydra
from quant_sweep.cli.schema import Ui
from quant_sweep.errors import InputError, printable
from quant_sweep.sweep.store import check_store
from quant_sweep.tracking import SERVER_ENVIRONMENT, absolute_uri, addresses

_PORTS = range(1, 65536)


def main() -> None:
    """Entry point."""
    with one_line_errors("quant-sweep-ui"):
        run_hydra("ui_config", serve, Ui)


def serve(cfg: DictConfig) -> None:
    """Print the addresses and become the server, until Ctrl-C; a server that is elsewhere needs no other."""
    check_store(cfg.tracking)
    if cfg.port not in _PORTS:
        raise InputError(f"port={cfg.port}: allowed are {_PORTS[0]} to {_PORTS[-1]}")
    uri = absolute_uri(cfg.tracking.uri)
    for name, address in addresses(uri, Path(cfg.tracking.lock_dir), f"http://127.0.0.1:{cfg.port}"):
        print(f"{printable(name)}: {address}", flush=True)
    if not uri.startswith("http"):
        options = ["--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(cfg.port), "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "ui", *options]
        os.execve(sys.executable, command, {**os.environ, **SERVER_ENVIRONMENT})
