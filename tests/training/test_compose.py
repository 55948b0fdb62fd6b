"""Values on the command line that Hydra's grammar has no place for."""

from typing import Any

import pytest
from omegaconf import OmegaConf

from anomaly_seg.training.compose import compose, compose_first, quote_values


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("data.categories", "[Riß]", ["Riß"]),
        ("data.categories", "[Riß, Loch tief ,'a, b',\"Ü\"]", ["Riß", "Loch tief", "a, b", "Ü"]),
        ("data.categories", "Riß", "Riß"),
        ("data.name", "Gehäuse", "Gehäuse"),
        ("data.licence", "© Müller (2020)", "© Müller (2020)"),
        ("variant", "größe", "größe"),
        ("experiment_name", "検査", "検査"),
        ("output_dir", "läufe/[1]", "läufe/[1]"),
        ("data.root", "/daten/Prüfung 1=2", "/daten/Prüfung 1=2"),
        ("data.mask_suffix", "_Maß", "_Maß"),
        ("data.groups", r"(Größe\d+)_", r"(Größe\d+)_"),
        ("data.groups", r"(part[0-9]+)_", r"(part[0-9]+)_"),
        ("data.groups", "it's ä", "it's ä"),
        ("data.groups", "ä\\", "ä\\"),
        ("data.groups", "null", None),
        ("variant", "'größe'", "größe"),
        ("fold", "1", 1),
    ],
)
def test_a_value_is_taken_as_it_is(key: str, written: str, value: Any) -> None:
    config = compose(["data=folder", *quote_values([f"{key}={written}"])])
    found = OmegaConf.select(config, key)
    assert (OmegaConf.to_container(found) if OmegaConf.is_config(found) else found) == value


def test_each_value_of_a_sweep_on_its_own() -> None:
    words = quote_values(["data=folder", "variant=größe,länge", "fold=0,1"])
    assert words[1:] == ["variant='größe','länge'", "fold=0,1"]
    config = compose_first(words)
    assert (config.variant, config.fold) == ("größe", 0)
