from __future__ import annotations

from pathlib import Path

from standby.host.parent import free_cores, physical_cores


def test_two_threads_of_a_core_count_once(tmp_path: Path) -> None:
    """Where the kernel tells which processors are one core, only cores count; else each processor is one."""
    for number, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        place = tmp_path / f"cpu{number}" / "topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(siblings + "\n")
    assert physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert physical_cores({0, 2}, tmp_path) == 1
    assert physical_cores({7, 8, 9}, tmp_path) == 3


def test_there_is_always_a_core() -> None:
    """On this machine as well."""
    assert free_cores() >= 1
