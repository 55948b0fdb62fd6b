"""The LightningModule: phases, freezing, averaging, schedules, and what it refuses."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, roc_auc_score
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from anomaly_seg.data.datamodule import Batch
from anomaly_seg.errors import InputError
from anomaly_seg.losses import Phase
from anomaly_seg.models.base import Network, Output
from anomaly_seg.models.one_stage import OneStage
from anomaly_seg.models.seg_dec import SegDec
from anomaly_seg.settings import OptimizerSettings
from anomaly_seg.training.checkpoint import check_fits
from anomaly_seg.training.module import SegmentationModule
from anomaly_seg.training.step_losses import NotFiniteError

ALL = [Phase("all", 1.0, (), {"f1": 1.0, "f2": 1.0, "f3": 1.0})]
TWO = [
    Phase("segmentation", 1.0, ("segmentation",), {"mask": 1.0, "decision": 0.0}),
    Phase("decision", 1.0, ("decision",), {"mask": 0.0, "decision": 1.0}),
]
ADAM = OptimizerSettings(name="adam", lr=0.001)


def with_(**more: Any) -> OptimizerSettings:
    """Adam with other arguments."""
    return OptimizerSettings(**(ADAM.model_dump() | more))


class Pictures(torch.utils.data.Dataset):
    """Random pictures with a square defect on every second one; picture `broken` is not a number."""

    def __init__(self, count: int = 4, size: tuple[int, int] = (32, 32), broken: int | None = None) -> None:
        self.count, self.size, self.broken = count, size, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Batch:
        image = torch.rand(1, *self.size, generator=torch.Generator().manual_seed(i))
        mask = torch.zeros(1, *self.size)
        mask[:, 8:12, 8:12] = i % 2
        return Batch(image * (math.nan if i == self.broken else 1), mask, torch.tensor(float(i % 2)), torch.tensor(i))


class Brightness(Network):
    """The image as its own map: log-odds from -5 (black) to 5 (white)."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(-5.0))

    def forward(self, image: Tensor) -> Output:
        return Output({"map": 10 * image + self.shift})

    def maps(self, output: Output) -> dict[str, Tensor]:
        return {"map": torch.sigmoid(output.logits["map"])}


def test_validation_measures_are_those_of_scikit_learn() -> None:
    data = Pictures(count=12)
    module = SegmentationModule(Brightness(), [Phase("all", 1.0, (), {"map": 1.0})], ADAM)
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
    (found,) = L.Trainer(**quiet).validate(module, DataLoader(data), verbose=False)
    images, masks = (torch.stack([getattr(data[i], name) for i in range(12)]) for name in ("image", "mask"))
    label, score = [i % 2 for i in range(12)], torch.sigmoid(10 * images.double() - 5).sum(dim=(1, 2, 3))
    assert found["validation/AP"] == pytest.approx(average_precision_score(label, score), abs=1e-6)
    assert found["validation/AUROC"] == pytest.approx(roc_auc_score(label, score), abs=1e-6)
    assert 0 < found["validation/AP"] < 1
    defect, called = masks.flatten().numpy() == 1, images.flatten().numpy() > 0.5
    assert found["validation_pixel/IoU"] == pytest.approx(jaccard_score(defect, called), abs=1e-6)
    assert found["validation_pixel/Dice"] == pytest.approx(f1_score(defect, called), abs=1e-6)


def one_stage(**more: Any) -> SegmentationModule:
    torch.manual_seed(0)
    return SegmentationModule(OneStage(width_multiplier=1 / 16), ALL, more.pop("optimizer", ADAM), **more)


def fit(module: SegmentationModule, data: Pictures, epochs: int = 1, callbacks: list = (), **more: Any) -> L.Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **(quiet | more))
    trainer.fit(module, DataLoader(data))
    return trainer


class Watch(L.Callback):
    """What the module looked like after each step."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.states: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, index: int) -> None:
        self.phases.append(module.phase.name)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *rest: Any) -> None:
        self.states.append({name: value.clone() for name, value in module.state_dict().items()})


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_image() -> None:
    module = one_stage(image_names=["part01/a", "part01/b", "part02/a", "part02/b"])
    with pytest.raises(NotFiniteError, match=r"step 2, image part02/a \(f1 nan, .*lower optimizer\.lr"):
        fit(module, Pictures(broken=2))


def test_the_first_bad_step_is_told_and_nothing_later_is_saved(tmp_path: Path) -> None:
    # Looks after the 10th and the 20th of 25 steps; the 14th image is broken, and every loss after it is bad.
    module = one_stage()
    saved = ModelCheckpoint(tmp_path, save_on_train_epoch_end=True)
    with pytest.raises(NotFiniteError, match="step 13, image 13 "):
        fit(module, Pictures(25, broken=13), callbacks=[saved], enable_checkpointing=True)
    assert module.global_step == 19 and not [*tmp_path.iterdir()]


def test_a_bad_last_step_is_found_before_the_checkpoint_is_written(tmp_path: Path) -> None:
    saved = ModelCheckpoint(tmp_path, save_on_train_epoch_end=True)
    with pytest.raises(NotFiniteError, match="step 11, image 11 "):
        fit(one_stage(), Pictures(12, broken=11), callbacks=[saved], enable_checkpointing=True)
    assert not [*tmp_path.iterdir()]


class HostReads(TorchDispatchMode):
    """Counts how often numbers are read from a tensor: on a GPU each read waits for all that was asked of it."""

    count = 0

    def __enter__(self) -> Any:
        self.tolist = Tensor.tolist  # reads the memory itself, so no operation is dispatched
        Tensor.tolist = lambda tensor: self.read(tensor)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        Tensor.tolist = self.tolist
        super().__exit__(*error)

    def read(self, tensor: Tensor) -> Any:
        self.count += 1
        return self.tolist(tensor)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("average", "each_step"), [(0.0, 0), (0.9, 3)])
def test_training_hardly_waits_for_the_device(average: float, each_step: int) -> None:
    reads = []
    for steps in (20, 60):
        with HostReads() as counter:
            fit(one_stage(average=average, optimizer=with_(fused=True)), Pictures(steps), max_steps=steps)
        reads.append(counter.count)
    # 40 steps more are 4 looks at the losses more; torch's AveragedModel reads its counter, ours does once.
    assert 4 <= reads[1] - reads[0] <= 4 + 40 * each_step


def test_without_names_the_index_is_told() -> None:
    with pytest.raises(NotFiniteError, match="step 0, image 0 "):
        fit(one_stage(), Pictures(broken=0))


def test_phases_follow_the_step() -> None:
    torch.manual_seed(0)
    watch = Watch()
    module = SegmentationModule(SegDec(width_multiplier=1 / 16), TWO, ADAM)
    fit(module, Pictures(3, (128, 64)), epochs=2, callbacks=[watch])
    assert watch.phases == ["segmentation"] * 3 + ["decision"] * 3
    assert module.total_steps == 6


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_what_a_phase_does_not_train_is_frozen(norm: str) -> None:
    torch.manual_seed(0)
    watch = Watch()
    module = SegmentationModule(
        SegDec(width_multiplier=1 / 16, norm=norm), TWO, OptimizerSettings(name="sgd", lr=0.1, momentum=0.9)
    )
    start = {name: value.clone() for name, value in module.state_dict().items()}
    # Of 3 epochs of 3 steps the boundary falls inside the second.
    fit(module, Pictures(3, (128, 64)), epochs=3, callbacks=[watch])
    boundary = watch.phases.index("decision")
    assert boundary == 4
    at_boundary, end = watch.states[boundary - 1], watch.states[-1]
    for name, value in start.items():
        part = name.split(".")[1]
        assert torch.equal(value, at_boundary[name]) or part == "segmentation", name
        assert torch.equal(at_boundary[name], end[name]) or part == "decision", name
    assert not torch.equal(
        start["network.segmentation.head.0.weight"], at_boundary["network.segmentation.head.0.weight"]
    )
    assert not torch.equal(at_boundary["network.decision.linear.weight"], end["network.decision.linear.weight"])


def test_a_phase_that_trains_all_thaws_what_was_frozen() -> None:
    torch.manual_seed(0)
    module = SegmentationModule(SegDec(width_multiplier=1 / 16), TWO, ADAM)
    module._freeze(TWO[1])
    assert not any(p.requires_grad for p in module.network.segmentation.parameters())
    assert not module.network.segmentation.training and module.network.decision.training
    module._freeze(Phase("all", 1.0, (), {"mask": 1.0}))
    assert all(p.requires_grad for p in module.network.parameters())
    assert all(m.training for m in module.network.modules())


def test_a_phase_with_an_unknown_part_is_refused() -> None:
    with pytest.raises(InputError, match=r"'late': no part \['head'\]; choose from .*'encoder'"):
        SegmentationModule(OneStage(width_multiplier=1 / 16), [*ALL, Phase("late", 1.0, ("head",), {"f1": 1.0})], ADAM)


def test_the_average_is_the_hand_computed_one() -> None:
    module = one_stage(average=0.5)
    weight = module.network.side["f1"].reduce.bias
    averaged = module.evaluated.side["f1"].reduce.bias
    # Decays min(0.5, (1 + n) / (10 + n)) for n = 1, 2, ...; the first update copies.
    expected = None
    for n, value in enumerate([1.0, 3.0, -2.0, 4.0, 8.0, 0.0, 1.0, 1.0, 5.0, 2.0, 2.0]):
        weight.data.fill_(value)
        module.on_train_batch_end(None, None, n)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert averaged.item() == pytest.approx(expected, abs=1e-6)
    assert min(0.5, (1 + n) / (10 + n)) == 0.5  # both branches were taken


def test_the_average_is_what_is_evaluated_and_running_statistics_follow() -> None:
    module = one_stage(average=0.9)
    fit(module, Pictures())
    assert module.evaluated is module.averaged.module
    name = "encoder.stage1.0.1.running_mean"
    assert torch.equal(module.evaluated.state_dict()[name], module.network.state_dict()[name])
    assert not torch.equal(module.evaluated.side["f1"].reduce.weight, module.network.side["f1"].reduce.weight)
    plain = one_stage()
    assert plain.evaluated is plain.network


def test_the_cosine_ends_at_zero_in_each_phase() -> None:
    torch.manual_seed(0)
    watch = Watch()
    module = SegmentationModule(SegDec(width_multiplier=1 / 16), TWO, with_(schedule="cosine"))
    trainer = fit(module, Pictures(4, (128, 64)), epochs=2, callbacks=[watch])
    half = [0.0005 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert watch.rates == pytest.approx(half * 2)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_without_a_schedule_the_rate_stays() -> None:
    watch = Watch()
    fit(one_stage(optimizer=with_(schedule="none")), Pictures(), callbacks=[watch])
    assert watch.rates == [0.001] * 4


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (OptimizerSettings(name="rmsprop", lr=0.1), r"optimizer\.name=rmsprop: choose adam or sgd"),
        (with_(schedule="step"), r"optimizer\.schedule=step: choose none or cosine"),
        (OptimizerSettings.model_construct(name="adam", schedule="none", lr=-1.0), "Invalid learning rate: -1.0"),
        (with_(momentum=0.9), "momentum"),
        (OptimizerSettings(name="sgd", lr=0.1, momentum=-1), "Invalid momentum value"),
    ],
)
def test_a_wrong_optimizer_is_refused(optimizer: OptimizerSettings, says: str) -> None:
    with pytest.raises(InputError, match=says):
        one_stage(optimizer=optimizer).configure_optimizers()


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_gradients_are_clipped(clip: float | None) -> None:
    module = one_stage(optimizer=OptimizerSettings(name="sgd", lr=1.0))
    before = [p.detach().clone() for p in module.parameters()]
    fit(module, Pictures(1), gradient_clip_val=clip)
    step = torch.cat([(a - b).flatten() for a, b in zip(module.parameters(), before, strict=True)]).norm().item()
    assert step == pytest.approx(clip, rel=1e-2) if clip else step > 1e-2


class Counted(SegmentationModule):
    """Which of the slow things it does, in order."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: list[str] = []

    def _freeze(self, phase: Phase) -> None:
        self.calls.append(phase.name)
        super()._freeze(phase)

    def log(self, name: str, *args: Any, **more: Any) -> None:
        self.calls.append(name)
        super().log(name, *args, **more)


@pytest.mark.parametrize("steps", [4, 12])
def test_what_is_done_once_is_not_done_at_every_step(steps: int) -> None:
    torch.manual_seed(0)
    module = Counted(SegDec(width_multiplier=1 / 16), TWO, ADAM)
    fit(module, Pictures(steps, (128, 64)), epochs=3)  # the phase changes in the middle of the second epoch
    first, second = ["segmentation", "loss", "loss/mask"], ["decision", "loss", "loss/decision"]
    assert module.calls == [*first, "segmentation", "decision", *first[1:], second[-1], *second]


def test_losses_are_logged_by_epoch() -> None:
    trainer = fit(one_stage(), Pictures())
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert set(logged) == {"loss", "loss/f1", "loss/f2", "loss/f3"}
    assert logged["loss"] == pytest.approx(sum(logged[f"loss/f{k}"] for k in (1, 2, 3)), rel=1e-5)
    assert trainer.lightning_module.last_loss == pytest.approx(logged["loss"])


def test_the_encoder_learns_at_its_share_of_the_rate() -> None:
    sgd = OptimizerSettings(name="sgd", lr=0.5)
    module = SegmentationModule(OneStage(width_multiplier=1 / 16), ALL, sgd, encoder_lr_factor=0.1)
    optimizer, before = module._optimizer(), {n: p.detach().clone() for n, p in module.network.named_parameters()}
    for parameter in module.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in module.network.named_parameters():
        moved = 0.05 if name.startswith("encoder.") else 0.5
        torch.testing.assert_close(parameter, before[name] - moved)


def test_the_layout_changes_no_number() -> None:
    losses = []
    for channels_last in (False, True):
        trainer = fit(one_stage(channels_last=channels_last), Pictures())
        losses.append(trainer.callback_metrics["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_weights_of_another_network_do_not_fit() -> None:
    module = one_stage()
    check_fits("x.ckpt", module.state_dict(), one_stage())
    wider = SegmentationModule(OneStage(width_multiplier=1 / 8), ALL, ADAM)
    with pytest.raises(InputError, match=r"x\.ckpt: checkpoint of another network \(.* is \(4,.* there and \(2,"):
        check_fits("x.ckpt", wider.state_dict(), module)
    with pytest.raises(InputError, match=r"averaged\..* is absent there"):
        check_fits("x.ckpt", module.state_dict(), one_stage(average=0.9))


def test_the_running_statistics_move_by_the_given_share() -> None:
    module = one_stage(norm_momentum=0.25)
    norm = module.network.encoder.stage1[0][1]
    before, image = norm.running_mean.clone(), torch.rand(1, 1, 32, 32)
    module.network.train()(image)
    of_image = module.network.encoder.stage1[0][0](image).mean((0, 2, 3))
    assert torch.allclose(norm.running_mean, 0.75 * before + 0.25 * of_image, atol=1e-6)
    assert not torch.allclose(of_image, before, atol=1e-3)


def test_flips_are_averaged_at_scoring_only() -> None:
    module, image = one_stage(flip_average=True), torch.rand(1, 1, 32, 32)
    module.network.eval()
    with torch.no_grad():
        score, mirrored = (module.evaluated(x).logits["f1"] for x in (image, image.flip(2)))
        plain, plain_mirrored = (module.network(x).logits["f1"] for x in (image, image.flip(2)))
    assert torch.allclose(score, mirrored.flip(2), atol=1e-5)
    assert not torch.allclose(plain, plain_mirrored.flip(2), atol=1e-5)
    assert module.evaluated.network is module.network
