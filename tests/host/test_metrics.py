from __future__ import annotations

from pathlib import Path

from standby.host.metrics import Metrics

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def test_each_metric_of_the_host_is_on_the_page() -> None:
    """By name, kind and words."""
    rows = PAGE.read_text(encoding="utf-8").splitlines()
    for family in Metrics().registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        row = next((row for row in rows if row.startswith(f"| `{name}` | {family.type} |")), None)
        assert row, f"{name} is not in docs/reference/metrics.md"
        assert row.endswith(f"| {family.documentation} |")


def test_speeds_are_told_only_if_they_were_measured() -> None:
    """A host that did not measure says nothing."""
    silent, told = Metrics(), Metrics()
    silent.measured(None, None)
    told.measured(900.5, 60.0)
    name = "standby_host_measured_tokens_per_second"
    assert silent.registry.get_sample_value(name, {"phase": "prefill"}) is None
    assert told.registry.get_sample_value(name, {"phase": "prefill"}) == 900.5
    assert told.registry.get_sample_value(name, {"phase": "decode"}) == 60.0
