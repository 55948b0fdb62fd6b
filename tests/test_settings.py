"""Settings: records of older versions are read under today's names, and their runs are taken for finished."""

from pathlib import Path

import pytest
import yaml
from support.tiny_runs import tiny_settings

from anomaly_seg import settings as run_settings
from anomaly_seg.errors import InputError
from anomaly_seg.results import run_files
from anomaly_seg.settings_history import OUR_MODELS, RENAMED_CHANGES, STUDY, todays_words, upgrade
from anomaly_seg.training.compose import compose_settings, config_folder
from anomaly_seg.training.run import run

OLD = Path(__file__).parent / "support" / "records" / "old_names.yaml"
"""config.yaml of a demo run before keys were renamed, as that version wrote it."""


class TestARecordOfAnOlderVersion:
    def test_is_read_under_today_s_names(self) -> None:
        settings = run_settings.read(OLD)
        assert settings.data.structuring_element == "diamond"
        assert (settings.scale.width, settings.scale.width_multiplier) == (96, 0.125)
        assert settings.model.network == {
            "_target_": "anomaly_seg.models.unet.UNet", "in_channels": 1, "width_multiplier": 0.125, "base": 64,
            "depth": 4, "norm": "instance", "head_bias": "prior", "init": "default", "encoder": None,
        }  # fmt: skip
        assert settings.data.reader == {
            "_target_": "anomaly_seg.data.readers.synthetic.read", "groups": 30, "views": 4, "defective_fraction": 0.25,
            "height": 256, "width": 96, "seed": 0,
        }  # fmt: skip

    def test_is_the_same_run_as_today_s(self) -> None:
        today = compose_settings(["experiment=demo", "model=unet", "fold=0", "output_dir=demo"])
        old = run_settings.read(OLD)
        assert old.differences(today) == []
        assert (old.digest(), old.folder) == (today.digest(), today.folder)
        other = compose_settings(["experiment=demo", "model=unet", "data.structuring_element=square"])
        assert old.differences(other) == ["data.structuring_element: diamond -> square"]

    def test_keeps_what_a_network_or_reader_of_the_user_s_calls_by_an_old_name(self) -> None:
        network = {"_target_": "mine.Network", "width": 7}
        assert upgrade({"model": {"network": network}, "data": {"reader": {"_target_": "mine.read", "items": 3}}}) == {
            "model": {"network": {"_target_": "mine.Network", "width": 7}},
            "data": {"reader": {"_target_": "mine.read", "items": 3}},
        }

    def test_is_left_as_it_is(self) -> None:
        record = yaml.safe_load(OLD.read_text())
        upgrade(record)
        assert record == yaml.safe_load(OLD.read_text())

    def test_is_skipped_as_finished(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        folder = run(tiny_settings(tmp_path))
        record = yaml.safe_load((folder / "config.yaml").read_text())
        record["data"]["element"] = record["data"].pop("structuring_element")
        record["data"]["reader"]["items"] = record["data"]["reader"].pop("groups")
        record["data"]["reader"]["_target_"] = "anomaly_seg.data.synthetic.read"
        record["scale"]["width_factor"] = record["scale"].pop("width_multiplier")
        record["model"]["network"]["width"] = record["model"]["network"].pop("width_multiplier")
        (folder / "config.yaml").write_text(yaml.safe_dump(record))
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        capsys.readouterr()
        assert run(tiny_settings(tmp_path)) == folder
        assert "finished before with the same settings\n" in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
        assert run_files.finished(folder)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("epochs", None, "epochs=null: use a whole number, 1 or more"),
        ("epochs", True, "epochs=True: use a whole number, 1 or more"),
        ("fold", "0,1", "fold=0,1: use a whole number; several folds need -m"),
        ("threads", -1, "threads=-1: use a whole number, 0 or more"),
        ("evaluate_on", "train", "evaluate_on=train: choose test or validation"),
        ("epochz", 3, "epochz: no such key; see `anomaly-seg train --cfg job`"),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(key: str, value: object, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(yaml.safe_load(OLD.read_text()) | {key: value}))
    with pytest.raises(InputError) as refused:
        run_settings.read(tmp_path / "config.yaml")
    assert f"config.yaml: not the settings of a run; copy it again, or run again ({says})" in str(refused.value)


@pytest.mark.parametrize(
    ("words", "now"),
    [
        (["model.network.width=0.125", "epochs=1"], ["model.network.width_multiplier=0.125", "epochs=1"]),
        (["model=unet,seg_dec", "-m"], ["model=unet,seg_dec", "-m"]),
        (["data.element=square"], ["data.structuring_element=square"]),
        (["scale.width_factor=0.5"], ["scale.width_multiplier=0.5"]),
        (["data.reader.items=6"], ["data.reader.groups=6"]),
        (["recipe=light"], ["change=flips_brightness"]),
        (["recipe=baseline,averaged", "-m"], ["change=baseline,ema", "-m"]),
        (["recipe=paper"], ["recipe=paper"]),
        (["model=own", "model.network.width=3"], ["model=own", "model.network.width=3"]),
        (["model.network._target_=own.Net", "model.network.width=3"],) * 2,
    ],
)
def test_commands_of_older_versions(words: list[str], now: list[str], capsys: pytest.CaptureFixture) -> None:
    assert todays_words(words) == now
    assert capsys.readouterr().err == "".join(f"{a} is {b} now\n" for a, b in zip(words, now, strict=True) if a != b)


def test_every_renamed_change_is_an_option() -> None:
    options = {path.stem for path in (config_folder() / "change").glob("*.yaml")}
    assert {RENAMED_CHANGES.get(name, name) for name in STUDY} == options
    assert {path.stem for path in (config_folder() / "model").glob("*.yaml")} == set(OUR_MODELS)
