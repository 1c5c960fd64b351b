"""Unusual networks are packed as they are, or refused with a sentence that says why."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spq
from spqformat import Reason, SpqError
from spqtools.pack import PackRequest, run_pack
from spqtools.progress import Progress
from spqtools.report import Report
from spqtools.search.goal import Options

FAST = Options(sparsity=0.5, effort="fast")
NUMBERS = Options(sparsity=0.5, effort="fast", fitness="squared")


class Dense(nn.Module):
    """A layer of eight inputs, and what a function makes of its outputs."""

    def __init__(self, end: Callable[[Tensor], Tensor] = lambda outputs: outputs) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)
        self.register_buffer("scale", torch.tensor(0.5, dtype=torch.bfloat16))
        self.scale: Tensor
        self.end = end

    def forward(self, inputs: Tensor) -> Tensor:
        return self.end(self.layer(inputs) * self.scale.float())


class Wordy(Dense):
    """The same with a table that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        words: Tensor = self.table(inputs[:, 0].clamp(0, 3).long())
        return super().forward(inputs) + words


def pack(folder: Path, network: nn.Module, **options: float) -> Path:
    """Pack a network with calibration inputs."""
    return Path(report(folder, network, Options(effort="fast", **options)).output)  # type: ignore[arg-type]


def report(folder: Path, network: nn.Module, options: Options, resumes: bool = False) -> Report:
    """Pack a network with calibration inputs; return what came of it."""
    inputs = np.random.Generator(np.random.PCG64(2)).normal(size=(64, 8)).astype("f4")
    np.savez(folder / "calibration.npz", x=inputs)
    example = torch.from_numpy(inputs[:2])
    batch = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(network.eval(), (example,), dynamic_shapes=batch)
    torch.export.save(exported, folder / "model.pt2")
    request = PackRequest(
        folder / "model.pt2",
        folder / "model.spq",
        options,
        calibration=folder / "calibration.npz",
        resumes=resumes,
    )
    return run_pack(request, Progress())


def pack_weights(folder: Path, **tensors: Tensor) -> dict[str, Tensor]:
    """Pack weights alone and load them again."""
    torch.save(tensors, folder / "model.pt")
    options = Options(sparsity=0.5)
    run_pack(PackRequest(folder / "model.pt", folder / "model.spq", options), Progress())
    return spq.load_state_dict(folder / "model.spq")


def test_bfloat16_beside_float32(tmp_path: Path) -> None:
    state = spq.load_state_dict(pack(tmp_path, Dense(), sparsity=0.5))
    assert state["scale"].dtype == torch.bfloat16
    assert state["scale"].item() == 0.5
    assert (state["layer.weight"] == 0).sum() == 16


def test_bfloat16_in_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Dense()
    whole = pack(tmp_path, network, sparsity=0.5).read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("spqtools.search.compress._Search.result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pack(tmp_path, network, sparsity=0.5)
    resumed = report(tmp_path, network, FAST, resumes=True)
    assert Path(resumed.output).read_bytes() == whole


def test_zeros_that_are_there_stay(tmp_path: Path) -> None:
    network = Dense()
    # Survivors that are far from zero: small ones may well become zeros on few levels.
    network.layer.weight.data[:, 0] = torch.tensor([0.5, -0.4, 0.6, -0.5])
    network.layer.weight.data[:, 1:] = 0.0
    for options in ({"sparsity": 0.5}, {"sparsity": 0.0, "bits": 2}, {"target_ratio": 0.2}):
        state = spq.load_state_dict(pack(tmp_path, network, **options))
        assert (state["layer.weight"][:, 1:] == 0).all()
        assert (state["layer.weight"][:, 0] != 0).all()


@pytest.mark.parametrize("end", [nn.Identity(), nn.Linear(4, 4)], ids=["alone", "beside another"])
def test_a_layer_of_zeros(tmp_path: Path, end: nn.Module) -> None:
    network = Dense(end)
    network.layer.weight.data[:] = 0.0
    state = spq.load_state_dict(pack(tmp_path, network, sparsity=0.5))
    assert not state["layer.weight"].any()


def test_parameters_outside_of_layers_are_told(tmp_path: Path) -> None:
    assert report(tmp_path, Dense(), NUMBERS).notes == ()
    (note,) = report(tmp_path, Wordy(), NUMBERS).notes
    assert note.startswith("85% of the parameters are not those of linear or convolutional layers")


def test_what_outputs_are_taken_for_is_told(tmp_path: Path) -> None:
    found = report(tmp_path, Dense(), FAST)
    assert found.divergence_kind == "KL divergence in nats"
    assert found.notes == (
        "outputs are taken for the scores of classes; give --fitness squared if they are not",
    )
    found = report(tmp_path, Dense(), NUMBERS)
    assert found.divergence_kind == "squared error relative to the variance"


def test_inputs_that_are_not_looked_at_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spqtools.evolve.search._WALKED_ELEMENTS", 0)
    monkeypatch.setattr("spqtools.evolve.search._LEAST_WALKED_ELEMENTS", 0)
    (note,) = report(tmp_path, Dense(), NUMBERS).notes
    assert note.startswith("of 64 calibration inputs 8 steer the search and 8 judge it")


def test_bfloat16_alone(tmp_path: Path) -> None:
    scale, weight = torch.tensor(2.5, dtype=torch.bfloat16), torch.eye(4, dtype=torch.bfloat16)
    state = pack_weights(tmp_path, scale=scale, weight=weight)
    assert torch.equal(state["scale"], scale)
    assert torch.equal(state["weight"], weight)


def test_weights_at_the_ends_of_float32(tmp_path: Path) -> None:
    mask = torch.full((6, 6), torch.finfo(torch.float32).min).triu(1)
    tiny = torch.full((4, 4), 1e-41)
    state = pack_weights(tmp_path, mask=mask, tiny=tiny)
    assert torch.isfinite(state["mask"]).all()
    assert state["mask"].min() < -3e38
    assert torch.equal(state["tiny"], tiny)


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (lambda outputs: outputs.argmax(1), Reason.UNSUPPORTED_MODEL, "no floating-point output"),
        (lambda outputs: (-outputs.square() - 1).sqrt(), Reason.BAD_CALIBRATION, "finite numbers"),
    ],
    ids=["classes alone", "not a number"],
)
def test_answers_that_cannot_be_compared(
    tmp_path: Path, end: Callable[[Tensor], Tensor], code: Reason, words: str
) -> None:
    with pytest.raises(SpqError, match=words) as caught:
        pack(tmp_path, Dense(end), sparsity=0.5)
    assert caught.value.code is code
    assert not (tmp_path / "model.spq").exists()


def test_student_whose_answers_are_not_numbers(tmp_path: Path) -> None:
    """What is zero has no sign."""
    network = Dense(lambda outputs: outputs / outputs.abs())
    network.layer = nn.Linear(8, 4, bias=False)
    with pytest.raises(SpqError, match="no finite numbers") as caught:
        pack(tmp_path, network, sparsity=0.99)
    assert caught.value.code is Reason.GOAL_NOT_REACHED
