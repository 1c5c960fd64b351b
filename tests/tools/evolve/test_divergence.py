"""Divergence is zero for the teacher and what its name says for everybody else."""

from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor

from spqformat import Reason, SpqError
from spqtools.evolve.divergence import Divergence, squared


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TEACHER = randn(7, 5, seed=1)
STUDENT = TEACHER + 0.4 * randn(7, 5, seed=2)
FORMS = {
    "scores": lambda scores: 3 * scores,
    "distribution": lambda scores: (3 * scores).softmax(-1),
    "log-distribution": lambda scores: (3 * scores).log_softmax(-1),
}


@pytest.mark.parametrize("form", FORMS)
def test_classifiers_are_compared_by_kl(form: str) -> None:
    teacher, student = FORMS[form](TEACHER), FORMS[form](STUDENT)
    divergence = Divergence([[teacher[:4]], [teacher[4:]]])
    assert divergence.description == "KL divergence in nats"
    target, other = (np.exp(3 * x.double().numpy()) for x in (TEACHER, STUDENT))
    target, other = (x / x.sum(1, keepdims=True) for x in (target, other))
    rows = (target * np.log(target / other)).sum(1)
    assert divergence([[student[:4]], [student[4:]]], [0, 1]) == pytest.approx(
        rows.mean(), rel=1e-4
    )
    assert divergence([[student[4:]]], [1]) == pytest.approx(rows[4:].mean(), rel=1e-4)
    assert divergence([[teacher[:4]], [teacher[4:]]], [0, 1]) == pytest.approx(0, abs=1e-6)


def test_kl_knows_its_direction() -> None:
    forth = Divergence([[TEACHER]])([[3 * STUDENT]], [0])
    back = Divergence([[3 * STUDENT]])([[TEACHER]], [0])
    assert abs(forth - back) > 0.1 * forth


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 3, 4), (6, 2, 3, 3)])
def test_other_outputs_are_compared_by_squares(shape: tuple[int, ...]) -> None:
    teacher, noise = randn(*shape, seed=3), randn(*shape, seed=4)
    divergence = Divergence([[teacher]])
    expected = float((noise**2).double().mean() / teacher.double().var(unbiased=False))
    assert divergence.description == "squared error relative to the variance"
    assert divergence([[teacher + noise]], [0]) == pytest.approx(expected, rel=1e-3)
    assert divergence([[teacher]], [0]) == 0.0
    assert divergence.predictions([[teacher]]) is None


def test_embeddings_are_compared_by_squares() -> None:
    """A softmax would see next to nothing of rows whose length is one."""
    teacher = torch.nn.functional.normalize(randn(9, 64, seed=5))
    divergence = Divergence([[teacher[:4]], [teacher[4:]]])
    assert divergence.description == "squared error relative to the variance"
    assert divergence([[-teacher[:4]], [-teacher[4:]]], [0, 1]) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_embeddings_of_empty_inputs_and_of_few_digits(dtype: torch.dtype) -> None:
    teacher = torch.nn.functional.normalize(randn(9, 64, seed=5)).to(dtype)
    teacher[3] = 0.0
    assert Divergence([[teacher]]).description == "squared error relative to the variance"
    assert Divergence([[torch.zeros(5, 4)]]).guesses_classes


def test_hard_answers_of_a_classifier_are_distributions() -> None:
    """Their rows have a length of one, too."""
    teacher = torch.eye(4)
    assert Divergence([[teacher]]).description == "KL divergence in nats"


def test_a_fitness_says_that_rows_are_no_scores() -> None:
    plain, chosen = Divergence([[TEACHER]]), Divergence([[TEACHER]], squared)
    assert plain.guesses_classes
    assert not chosen.guesses_classes
    assert chosen.description == "squared error relative to the variance"
    error = (STUDENT - TEACHER).double().square().mean()
    expected = float(error / TEACHER.double().var(unbiased=False))
    assert chosen([[STUDENT]], [0]) == pytest.approx(expected, rel=1e-4)
    assert float(squared([STUDENT], [TEACHER])) == pytest.approx(float(error), rel=1e-4)
    assert chosen.predictions([[TEACHER]]) is None


@pytest.mark.parametrize("form", ["distribution", "log-distribution"])
def test_distributions_are_no_guess(form: str) -> None:
    assert not Divergence([[FORMS[form](TEACHER)]]).guesses_classes


def test_squares_do_not_depend_on_the_scale() -> None:
    teacher, noise = randn(8, 3, 2, seed=3), randn(8, 3, 2, seed=4)
    small = Divergence([[teacher]])([[teacher + 0.1 * noise]], [0])
    large = Divergence([[1000 * teacher]])([[1000 * (teacher + 0.1 * noise)]], [0])
    assert small == pytest.approx(large, rel=1e-3)


def test_several_outputs_add_up() -> None:
    regression = randn(7, 1, seed=5)
    both = Divergence([[TEACHER, regression]])
    first, second = Divergence([[TEACHER]]), Divergence([[regression]])
    total = both([[STUDENT, regression + 0.5]], [0])
    expected = first([[STUDENT]], [0]) + second([[regression + 0.5]], [0])
    assert total == pytest.approx(expected, rel=1e-6)


def test_a_constant_teacher_is_no_division_by_zero() -> None:
    constant = torch.full((4, 3, 2), 2.5)
    assert np.isfinite(Divergence([[constant]])([[constant + 1e-9]], [0]))


def test_probabilities_of_zero_stay_finite() -> None:
    teacher = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    student = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    assert np.isfinite(Divergence([[teacher]])([[student]], [0]))


def test_predictions() -> None:
    found = Divergence([[TEACHER]]).predictions([[TEACHER[:3]], [TEACHER[3:]]])
    assert found is not None
    assert torch.equal(found, TEACHER.argmax(1))


def test_divergence_is_differentiable() -> None:
    student = STUDENT.clone().requires_grad_(True)
    torch.autograd.backward(Divergence([[TEACHER]]).of_batch([student], 0))
    assert student.grad is not None
    expected = (STUDENT.softmax(1) - TEACHER.softmax(1)) / len(TEACHER)
    torch.testing.assert_close(student.grad, expected, rtol=1e-4, atol=1e-6)


def signs(*shape: int) -> Tensor:
    return randn(*shape, seed=9).sign()


@pytest.mark.parametrize("kind", ["scores", "distribution", "log-distribution"])
def test_the_pseudo_loss_of_a_classifier_has_the_curvature_of_the_divergence(kind: str) -> None:
    """Products of gradients approach Fisher's information, diag(p) - p p^T at scores."""
    count = 40_000
    scores = torch.tensor([1.0, 0.0, -1.0]).expand(count, 3)
    student = scores.clone().requires_grad_(True)
    outputs = {
        "scores": student,
        "distribution": student.softmax(1),
        "log-distribution": student.log_softmax(1),
    }[kind]
    divergence = Divergence([[outputs.detach()]])
    torch.autograd.backward(divergence.pseudo_loss([outputs], [signs(count, 3)]))
    assert student.grad is not None
    shares = scores[0].softmax(0)
    information = torch.diag(shares) - torch.outer(shares, shares)
    torch.testing.assert_close(
        student.grad.T @ student.grad / count, information, rtol=0.02, atol=2e-3
    )


def test_the_pseudo_loss_of_a_sure_classifier_tells_from_few_samples() -> None:
    scores = torch.tensor([9.0, 0.0]).expand(8, 2)
    student = scores.clone().requires_grad_(True)
    torch.autograd.backward(Divergence([[scores]]).pseudo_loss([student], [signs(8, 2)]))
    assert student.grad is not None
    shares = scores[0].softmax(0)
    expected = shares.prod().expand(2)
    torch.testing.assert_close(student.grad.square().mean(0), expected, rtol=0.1, atol=0.0)


def test_the_pseudo_loss_of_a_regression_has_the_curvature_of_the_squares() -> None:
    teacher = randn(50, 4, 2, seed=6)
    student = teacher.clone().requires_grad_(True)
    loss = Divergence([[teacher]]).pseudo_loss([student], [signs(50, 4, 2)])
    torch.autograd.backward(loss)
    assert student.grad is not None
    curvature = 2 / (teacher.var(unbiased=False) * teacher[0].numel())
    torch.testing.assert_close(student.grad.square(), curvature.expand_as(teacher))


def test_what_is_not_a_number_is_infinite() -> None:
    broken = STUDENT.clone()
    broken[2, 1] = torch.nan
    for teacher in (TEACHER, TEACHER[:, :, None]):
        divergence = Divergence([[teacher]])
        assert divergence([[broken.reshape(teacher.shape)]], [0]) == inf


def test_without_floating_point_outputs() -> None:
    with pytest.raises(SpqError, match="no floating-point output") as caught:
        Divergence([[]])
    assert caught.value.code is Reason.UNSUPPORTED_MODEL


def test_pieces_add_up_to_the_whole() -> None:
    teacher, student = randn(96, 5, seed=3), randn(96, 5, seed=4)
    for shape in ((96, 5), (96, 5, 1)):
        batches = [[part.reshape(-1, *shape[1:])] for part in teacher.tensor_split(2)]
        outputs = [[part.reshape(-1, *shape[1:])] for part in student.tensor_split(2)]
        divergence = Divergence(batches)
        pieces = divergence.pieces(outputs, [0, 1])
        assert pieces.shape == (32,)
        assert float(pieces.mean()) == pytest.approx(divergence(outputs, [0, 1]), rel=1e-5)


def test_no_more_pieces_than_samples() -> None:
    divergence = Divergence([[TEACHER]])
    assert divergence.pieces([[STUDENT]], [0]).shape == (7,)
