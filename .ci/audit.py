"""Look up known vulnerabilities of the packages in constraints.txt.

pip-audit exits with 0 where the advisory service does not know a package, and so also where an
index answers in its place that has no advisories. Exit status here: 1 if a package is known to be
vulnerable; 0 otherwise, and then what was not looked up is said, last and plainly.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
COMMAND = [
    *(sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS)),
    *("--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"),
]


def main() -> int:
    done = subprocess.run(COMMAND, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        print(f"NO AUDIT TOOK PLACE: {reason}")
        return 0
    for package in packages:
        for found in package.get("vulns", []):
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    audited = [package for package in packages if "skip_reason" not in package]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if not audited:
        print(f"NO AUDIT TOOK PLACE: no advisories came of any of {len(unknown)} packages.")
    else:
        print(f"Audited {len(audited)} packages.")
        if unknown:
            print(f"NOT AUDITED, for no advisories came of them: {', '.join(unknown)}.")
    return int(any(package.get("vulns") for package in packages))


if __name__ == "__main__":
    sys.exit(main())
