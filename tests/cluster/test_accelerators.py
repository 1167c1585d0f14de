"""The catalogue: many spellings, one name; what it does not know stays as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainmaster.cluster.accelerators import CATALOGUE, canonical, lookup


@pytest.mark.parametrize(
    ("written", "name", "memory_gib"),
    [
        ("v100", "v100", 16),
        ("V100", "v100", 16),
        ("V100-SXM2-16GB", "v100", 16),
        ("Tesla V100-SXM2-32GB", "v100-32gb", 32),
        ("V100M32", "v100-32gb", 32),
        ("tesla_p100-pcie-16gb", "p100", 16),
        ("Tesla K80", "k80", 12),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb", 80),
        ("NVIDIA A100 80GB PCIe", "a100-80gb", 80),
        ("A100-80GB", "a100-80gb", 80),
        ("nvidia_a100-pcie-40gb", "a100", 40),
        ("NVIDIA H100 80GB HBM3", "h100", 80),
        ("H200", "h200", 141),
        ("L40S", "l40s", 48),
        ("NVIDIA A10G", "a10g", 24),
        ("NVIDIA GeForce RTX 2080 Ti", "rtx2080ti", 11),
        ("Quadro RTX 6000", "rtx6000", 24),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000-ada", 48),
        ("AMD Instinct MI250X", "mi250x", 64),
    ],
)
def test_every_spelling_in_use_leads_to_one_name(written, name, memory_gib):
    assert canonical(written) == name
    assert lookup(written).memory_gib == memory_gib


@pytest.mark.parametrize("name", ["aws", "rtx", "dgx-ext", "quad", "azure", "MISC", "G2", "1g.10gb", "V100-unconsolidated", "nvidia", ""])
def test_a_name_outside_the_catalogue_is_opaque(name):
    assert canonical(name) == name
    assert lookup(name) is None


@given(st.text())
def test_canonical_names_are_their_own_canonical_name(name):
    assert canonical(canonical(name)) == canonical(name)


def test_no_spelling_belongs_to_two_entries():
    spellings = [alias for known in CATALOGUE for alias in {known.name, *known.aliases}]

    assert len(spellings) == len(set(spellings))
