"""The Debian packages: what is in them, and one that is installed, used, removed and purged on a bare Debian."""

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.containers import BASE, NoEngine, engine

pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[3]
MACHINES = {"amd64": 62, "arm64": 183}
"""``e_machine`` of ELF files."""

ON_THE_HOST = """
set -eux
apt-get update -qq
apt-get install -y -qq --no-install-recommends /deb/fedmq_*_amd64.deb >/dev/null
edge-node --version && coordinator --version && fedmq --version
cd /tmp
coordinator init plant --host 127.0.0.1 --enroll edge-01 --no-evaluate --task quadratic-400 >/dev/null
edge-node join plant/enrolled/edge-01.fedmq --into /etc/fedmq/node
/opt/fedmq/bin/python -c 'import starlette, sys; assert sys.prefix == "/opt/fedmq"'
/opt/fedmq/bin/pip --version
dpkg --verify fedmq
getent passwd fedmq
test -f /usr/lib/systemd/system/fedmq-node.service
dpkg -r fedmq
test -e /etc/fedmq/node/node.key
test ! -e /opt/fedmq/bin
test ! -e /opt/fedmq/lib
dpkg -i /deb/fedmq_*_amd64.deb
edge-node --version
dpkg -P fedmq
test ! -e /opt/fedmq
test ! -e /etc/fedmq
if getent passwd fedmq; then exit 1; fi
echo all is well
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both, built here; they need the package index, and an engine for what follows."""
    try:
        tried = subprocess.run([engine(), "run", "--rm", BASE, "true"], capture_output=True, text=True, check=False)
    except NoEngine as reason:
        pytest.skip(str(reason))
    if tried.returncode != 0:
        pytest.skip(f"no container of {BASE} can be started here: {tried.stderr.strip()[-200:]}")
    out = tmp_path_factory.mktemp("deb")
    subprocess.run([str(ROOT / "deploy" / "debian" / "build.sh"), "--out", str(out)], cwd=ROOT, check=True)
    return {name: next(out.glob(f"fedmq_*_{name}.deb")) for name in MACHINES}


@pytest.mark.parametrize("architecture", MACHINES)
def test_a_package_has_the_machine_code_of_its_architecture_alone(
    architecture: str, packages: dict[str, Path], tmp_path: Path
) -> None:
    package = packages[architecture]
    tool = shutil.which("dpkg-deb")
    assert tool is not None  # what has built it
    subprocess.run([tool, "-x", str(package), str(tmp_path)], check=True)
    line = [tool, "-f", str(package), "Architecture"]
    assert subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip() == architecture
    libraries = list((tmp_path / "opt").rglob("*.so*"))
    assert {int.from_bytes(one.read_bytes()[18:20], "little") for one in libraries} == {MACHINES[architecture]}
    assert len(libraries) > 10
    for name in ("coordinator", "edge-node", "fedmq"):
        assert (tmp_path / "usr" / "bin" / name).readlink() == Path("/opt/fedmq/bin", name)
    installed = {one.name for one in (tmp_path / "usr" / "lib" / "systemd" / "system").iterdir()}
    assert installed == {one.name for one in (ROOT / "federation" / "services").glob("fedmq-*")}


def test_a_package_is_installed_used_removed_and_purged(packages: dict[str, Path]) -> None:
    """`apt-get` of the image must reach Debian's mirror: the package needs Python from there."""
    folder = packages["amd64"].parent
    folder.chmod(0o755)
    line = [engine(), "run", "--rm", "--network=host", "-v", f"{folder}:/deb:ro", BASE, "bash", "-c", ON_THE_HOST]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.endswith("all is well\n")
