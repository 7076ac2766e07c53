"""Writes what is in the images: one CycloneDX 1.6 document for each, with Debian's packages and the Python ones.

    python deploy/containers/sbom.py [--out out/sbom] [IMAGE...]

It asks the image itself (docker or podman), so that it holds for an image that somebody else has built, too.
Format: https://cyclonedx.org/docs/1.6/json/
"""

import argparse
import json
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

IMAGES = ("fedmq-broker", "fedmq-coordinator", "fedmq-node")

ASKED = r"""
set -e
. /etc/os-release
echo "D|$ID|$VERSION_ID"
dpkg-query -W -f 'd|${binary:Package}|${Version}|${Architecture}\n'
for file in /opt/fedmq/lib/python3*/site-packages/*.dist-info/METADATA; do
  [ -e "$file" ] || continue
  printf 'p|'
  sed -n '/^$/q; s/^Name: //p' "$file" | head -n 1 | tr '\n' '|'
  sed -n '/^$/q; s/^Version: //p' "$file" | head -n 1
done
"""
"""What an image says of itself, a line for each package."""

Component = Mapping[str, Any]


def components(said: str) -> list[Component]:
    """Every package of which an image has said something, once each, by their addresses (purl)."""
    found = {one["purl"]: one for one in _components(said.splitlines())}
    return [found[purl] for purl in sorted(found)]


def _components(lines: Sequence[str]) -> Iterator[Component]:
    system = "debian"
    for line in lines:
        match line.split("|"):
            case ["D", name, _]:
                system = name
            case ["d", name, version, architecture]:
                package = name.partition(":")[0]
                place = f"pkg:deb/{system}/{quote(package)}@{quote(version, safe='')}?arch={architecture}"
                yield {"type": "library", "name": package, "version": version, "purl": place, "bom-ref": place}
            case ["p", name, version]:
                place = f"pkg:pypi/{quote(name.lower().replace('_', '-'))}@{quote(version, safe='')}"
                yield {"type": "library", "name": name, "version": version, "purl": place, "bom-ref": place}
            case _:
                raise ValueError(f"an image has said {line!r}")


def document(image: str, digest: str, listed: list[Component]) -> dict[str, Any]:
    """The document of one image; the same image gives the same bytes."""
    reference = f"{image}@{digest}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, reference + json.dumps(listed))}",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "name": image, "version": digest, "bom-ref": reference},
        },
        "components": listed,
        "dependencies": [{"ref": reference, "dependsOn": [one["bom-ref"] for one in listed]}],
    }


def _engine() -> str | None:
    for name in ("docker", "podman"):
        program = shutil.which(name)
        if program is not None and subprocess.run([program, "info"], capture_output=True, check=False).returncode == 0:
            return program
    return None


def main() -> int:
    """Write the documents; returns the exit code."""
    options = argparse.ArgumentParser(description="What is in the images, as CycloneDX documents.")
    options.add_argument("images", nargs="*", default=IMAGES)
    options.add_argument("--out", type=Path, default=Path("out/sbom"))
    chosen = options.parse_args()
    engine = _engine()
    if engine is None:
        sys.stderr.write("sbom: neither docker nor podman runs here\n")
        return 1
    chosen.out.mkdir(parents=True, exist_ok=True)
    for image in chosen.images:
        digest = subprocess.run(
            [engine, "image", "inspect", "-f", "{{.Id}}", image], capture_output=True, text=True, check=False
        )
        if digest.returncode:
            sys.stderr.write(f"sbom: there is no image {image}: build it first (docs/how-to/containers.md)\n")
            return 1
        line = [engine, "run", "--rm", "--network=none", "--user=0", "--entrypoint=/bin/sh", image, "-c", ASKED]
        said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        listed = components(said)
        file = chosen.out / f"{image.rpartition('/')[2].replace(':', '-')}.cdx.json"
        identity = digest.stdout.strip()
        identity = identity if identity.startswith("sha256:") else f"sha256:{identity}"
        file.write_text(json.dumps(document(image, identity, listed), indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(f"{file}: {len(listed)} components\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
