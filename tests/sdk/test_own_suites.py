from __future__ import annotations

import asyncio
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.sdk.environments import python_with_sdk, quiet_environment, sources_of_sdk
from tests.sdk.literals import Real, literals
from tests.sdk.own_suites import FILES, MEASURED
from tests.sdk.places import Tenant

pytestmark = pytest.mark.sdk
PATIENCE_S = 240
LEFT_OUT = ("-k", "not test_deprecated_model_warning")
"""It asks models that are retired by now, which the service does not answer, and neither do we."""
TAIL = 8000


@pytest.mark.parametrize("version", MEASURED)
async def test_the_own_tests_of_an_sdk_pass(version: str, quick: tuple[str, Tenant], tmp_path: Path) -> None:
    """The test files that come with the SDK pass as they are, every answer being the server's."""
    url, tenant = quick
    python, sources = await asyncio.to_thread(lambda: (python_with_sdk(version), sources_of_sdk(version)))
    report = tmp_path / "report.xml"

    async with literals(Real(url=url, key=tenant.key, workspace=tenant.workspace)) as base_url:
        said = await run_tests(python, sources, base_url, report)

    passed, skipped, failed = read(report)
    assert failed == 0, said[-TAIL:]
    assert passed >= MEASURED[version][0]
    assert skipped <= MEASURED[version][1]


async def run_tests(python: Path, sources: Path, base_url: str, report: Path) -> str:
    """Run the files with the SDK's own settings, in one process; return what pytest said."""
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *LEFT_OUT, *FILES),
        cwd=sources,
        env={**quiet_environment(), "TEST_API_BASE_URL": base_url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode(errors="replace")


def read(report: Path) -> tuple[int, int, int]:
    """Count what passed, what was skipped and what failed."""
    suite = ET.parse(report).getroot().find("testsuite")
    assert suite is not None
    total, skipped, *bad = (int(suite.attrib[name]) for name in ("tests", "skipped", "failures", "errors"))
    failed = sum(bad)
    return total - skipped - failed, skipped, failed
