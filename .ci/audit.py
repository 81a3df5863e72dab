"""Look up known vulnerabilities of pinned packages with pip-audit, in a virtual environment of its own.

Exits with 1 if there are some. Where the services cannot be reached it says that the audit was skipped, and exits with
0: a change must not wait for a network that the machine does not have.

    python .ci/audit.py constraints.txt
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

_ENVIRONMENT = Path(".venv-audit")
_SKIPPED = "!! AUDIT SKIPPED:"
_SECONDS = 300


def verdict(report: dict[str, Any] | None) -> tuple[int, str]:
    """The exit code for a report of pip-audit (None if there is none), and what to print."""
    packages = report["dependencies"] if report else []
    known = [package for package in packages if "vulns" in package]
    if not known:
        return 0, f"{_SKIPPED} no service of vulnerabilities could be reached; run `make audit` where one can"
    found = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, mended in "
        f"{', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for package in known
        for vulnerability in package["vulns"]
    ]
    unknown = sorted(package["name"] for package in packages if "vulns" not in package)
    left = f"; not looked up: {', '.join(unknown)}" if unknown else ""
    return int(bool(found)), "\n".join([*found, f"{len(known)} packages, {len(found)} known vulnerabilities{left}"])


def report_of(pinned: str, service: str) -> dict[str, Any] | None:
    """What pip-audit reports; None if it cannot be installed, or the service cannot be reached."""
    if not (_ENVIRONMENT / "bin" / "pip-audit").exists():
        venv.create(_ENVIRONMENT, with_pip=True)
        install = [str(_ENVIRONMENT / "bin" / "pip"), "install", "--quiet", "pip-audit"]
        if subprocess.run(install, check=False).returncode:
            return None
    options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    command = [str(_ENVIRONMENT / "bin" / "pip-audit"), "-r", pinned, "-s", service, *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        report: dict[str, Any] = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        return None
    return report


def main() -> None:
    """Ask the services in turn, until one answers."""
    code, message = 0, ""
    for service in ("pypi", "osv"):
        code, message = verdict(report_of(sys.argv[1], service))
        if not message.startswith(_SKIPPED):
            break
    print(message)
    sys.exit(code)


if __name__ == "__main__":
    main()
