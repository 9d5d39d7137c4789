"""Certificates for servers that tests start."""

import subprocess
from pathlib import Path


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """One that signs itself, for 127.0.0.1 and no name: cert.pem, and its private key, key.pem."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=server"
    arguments = [*command.split(), "-keyout", "key.pem", "-out", "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(arguments, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"
