"""The fitness of detectors, and how a fitness of one's own takes part in a search."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spqformat import Reason, SpqError
from spqtools.evolve.divergence import GIVEN_FITNESS, Divergence
from spqtools.search.detector import yolo
from spqtools.search.fitness import named_fitness, stored_name

CLASSES = 4


def with_anchors(seed: int, images: int = 2) -> list[Tensor]:
    """Heads of YOLOv3: few cells with an object."""
    random = torch.Generator().manual_seed(seed)
    heads = []
    for size in (3, 6):
        head = torch.randn(images, 3, 5 + CLASSES, size, size, generator=random)
        head[:, :, 4] -= 4
        head[:, 0, 4, 1, 1] = 4.0
        heads.append(head.flatten(1, 2))
    return heads


def without_anchors(seed: int, images: int = 2) -> list[Tensor]:
    """Heads of YOLOv8, sizes mixed."""
    random = torch.Generator().manual_seed(seed)
    shapes = [(64, 3), (CLASSES, 6), (64, 6), (CLASSES, 3)]
    heads = [torch.randn(images, c, size, size, generator=random) for c, size in shapes]
    return [head - 3 if head.shape[1] == CLASSES else head for head in heads]


HEADS = pytest.mark.parametrize("heads", [with_anchors, without_anchors])


@HEADS
def test_nothing_is_different(heads: Callable[[int], list[Tensor]]) -> None:
    assert float(yolo(heads(0), heads(0))) == 0.0


@HEADS
def test_any_difference_costs(heads: Callable[[int], list[Tensor]]) -> None:
    teacher = heads(0)
    for index, head in enumerate(teacher):
        for channel in range(head.shape[1]):
            student = [one.clone() for one in teacher]
            student[index][:, channel] += 0.5
            # Distributions of a box's sides do not know their level, but each of their values.
            assert float(yolo(student, teacher)) > 1e-5, (index, channel)


def test_cells_with_objects_count() -> None:
    teacher = with_anchors(0)
    costs = []
    for row, column in ((1, 1), (2, 2)):
        student = [head.clone() for head in teacher]
        student[0][:, :4, row, column] += 0.3
        costs.append(float(yolo(student, teacher)))
    assert costs[0] > 10 * costs[1]


def test_a_box_costs_what_was_promised() -> None:
    teacher = [torch.full((1, 3 * (5 + CLASSES), 1, 1), -40.0)]
    student = [teacher[0].clone()]
    teacher[0][0, 4] = student[0][0, 4] = 40.0
    student[0][0, 2] += 0.2
    # Half a nat, over one object and one image.
    assert float(yolo(student, teacher)) == pytest.approx(0.25, rel=1e-4)


@HEADS
def test_it_is_differentiable_and_least_at_the_teacher(
    heads: Callable[[int], list[Tensor]],
) -> None:
    teacher = heads(0)
    student = [head.clone().requires_grad_(True) for head in heads(1)]
    slopes = torch.autograd.grad(yolo(student, teacher), student)
    nearer = [head.detach() - 0.01 * slope for head, slope in zip(student, slopes, strict=True)]
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)
    with torch.no_grad():
        assert float(yolo(nearer, teacher)) < float(yolo(student, teacher))


def test_extreme_logits_stay_finite() -> None:
    teacher = [torch.full((1, 3 * (5 + CLASSES), 2, 2), 200.0)]
    assert torch.isfinite(yolo([-head for head in teacher], teacher))


@pytest.mark.parametrize(
    "shapes",
    [[(2, 10)], [(2, 14, 3, 3)], [(2, 15, 3, 3)], [(2, 64, 3, 3), (2, 4, 6, 6)]],
    ids=["scores", "no multiple", "no classes", "other sizes"],
)
def test_other_heads_are_refused(shapes: list[tuple[int, ...]]) -> None:
    heads = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=r"head"):
        yolo(heads, heads)
    with pytest.raises(SpqError, match="--fitness 'yolo' fails") as caught:
        named_fitness("yolo")(heads, heads)
    assert caught.value.code is Reason.BAD_ARGUMENT


def weighted(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    weights = torch.arange(1.0, 1.0 + student[0].shape[1])
    return ((student[0] - teacher[0]) ** 2 * weights).sum(1).mean()


def test_the_pseudo_loss_knows_a_fitness_curvature() -> None:
    teacher = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    divergence = Divergence([[teacher]], weighted)
    assert divergence.description == GIVEN_FITNESS
    student = teacher.clone().requires_grad_(True)
    signs = torch.tensor([-1.0, 1.0]).repeat(15).reshape(6, 5)
    (root,) = torch.autograd.grad(divergence.pseudo_loss([student], [signs]), student)
    curvature = 2 * torch.arange(1.0, 6.0).expand(6, 5)
    torch.testing.assert_close(root**2, curvature, rtol=1e-3, atol=0)
    torch.testing.assert_close(root.sign(), signs)


def test_a_fitness_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def fitness(student, teacher):\n    return (student[0] - teacher[0]).abs().mean()\n"
    )
    fitness = named_fitness(f"{path}:fitness")
    one = [torch.ones(2, 3)]
    assert float(fitness(one, [torch.zeros(2, 3)])) == 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def fitness(student, teacher):\n    return student[0]\n", "one number"),
        ("def fitness(student, teacher):\n    return 1.0\n", "one number"),
        ("def fitness(student, teacher):\n    return student[0].detach().sum()\n", "a gradient"),
        ("def fitness(student, teacher):\n    raise SystemExit\n", "SystemExit"),
        ("def fitness(student):\n    return 0\n", "TypeError"),
        ("other = 1\n", "has no 'fitness'"),
    ],
)
def test_a_fitness_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    student = [torch.ones(2, 3, requires_grad=True)]
    with pytest.raises(SpqError, match=said) as caught:
        named_fitness(f"{path}:fitness")(student, [torch.ones(2, 3)])
    assert caught.value.code is Reason.BAD_ARGUMENT


def test_a_student_that_overflows_is_bad() -> None:
    teacher = with_anchors(0)
    student = [head * float("inf") for head in teacher]
    assert float(named_fitness("yolo")(student, teacher)) == float("inf")


def test_a_fitness_may_ignore_a_head() -> None:
    heads = [torch.eye(2, 3).requires_grad_(True), torch.eye(2, 3).requires_grad_(True)]
    divergence = Divergence([[head.detach() for head in heads]], weighted)
    signs = [torch.ones(2, 3), torch.ones(2, 3)]
    first, second = torch.autograd.grad(divergence.pseudo_loss(heads, signs), heads)
    assert bool((first > 0).all())
    assert not second.any()


def test_images_count_alike() -> None:
    """An image with many objects beside an empty one: the mean of both."""
    teacher, student = with_anchors(0), with_anchors(1)
    for head in teacher:
        head[1, 4::9] = -20.0
    alone = [
        float(yolo([head[i : i + 1] for head in student], [head[i : i + 1] for head in teacher]))
        for i in range(2)
    ]
    assert float(yolo(student, teacher)) == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_a_name_for_a_file_tells_contents_and_no_path(tmp_path: Path) -> None:
    names = []
    for text in ("one = 1\n", "two = 2\n"):
        (tmp_path / "mine.py").write_text(text)
        names.append(stored_name(f"{tmp_path / 'mine.py'}:fitness"))
    assert names[0] != names[1]
    assert all(name.startswith("mine.py:fitness@") for name in names)
    assert stored_name("yolo") == "yolo"
    assert stored_name("package.module:fitness") == "package.module:fitness"


def test_an_unknown_name() -> None:
    with pytest.raises(SpqError, match="none of squared, yolo, MODULE:CALLABLE"):
        named_fitness("yola")
