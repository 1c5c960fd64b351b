"""Compares a small network with the one that it was made of, as a table and as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from spqformat import Reason, SpqError
from spqtools.comparison.classifiers import ClassifierFigures, compare_classifiers
from spqtools.comparison.detectors import DetectorFigures, compare_detectors
from spqtools.comparison.network import Network
from spqtools.progress import Progress
from spqtools.reading.preprocess import Preprocess
from spqtools.report import JSON_FORMAT, escape, table

DEFAULT_CONFIDENCE = 0.8


@dataclass(frozen=True)
class CompareRequest:
    """What is to be compared.

    Parameters
    ----------
    teacher, student : Path
        Networks in .onnx or .spq.
    data : Path
        What they are run on.
    task : str
        ``detection`` or ``classification``.
    preprocess : Preprocess, optional
        What is done to images.
    labels : Path, optional
        Folder of labels; for detection.
    confidence : float, optional
        So sure the teacher is of the objects that count, 0.8 by default; for detection.
    pictures : Path, optional
        Folder for pictures; for detection.
    names : Path, optional
        Names of the classes in pictures, one a line; for detection.
    """

    teacher: Path
    student: Path
    data: Path
    task: str
    preprocess: Preprocess | None = None
    labels: Path | None = None
    confidence: float | None = None
    pictures: Path | None = None
    names: Path | None = None


@dataclass(frozen=True)
class Comparison:
    """The outcome of a comparison.

    Parameters
    ----------
    teacher, student : str
        The files.
    teacher_bytes, student_bytes : int
        Their sizes.
    task : str
        ``detection`` or ``classification``.
    figures : DetectorFigures or ClassifierFigures
        What was counted.
    """

    teacher: str
    student: str
    teacher_bytes: int
    student_bytes: int
    task: str
    figures: DetectorFigures | ClassifierFigures


def run_compare(request: CompareRequest, progress: Progress) -> Comparison:
    """Run both networks on the same data.

    Parameters
    ----------
    request : CompareRequest
        What is to be compared.
    progress : Progress
        Hears of the samples.

    Returns
    -------
    Comparison
        What was found.

    Raises
    ------
    SpqError
        Every reason of `Network`, `compare_detectors` and `compare_classifiers`;
        `bad_argument` for what is not for the task.
    OSError
        A file cannot be read or written.
    """
    if request.task == "classification":
        for name in ("labels", "confidence", "pictures", "names"):
            if getattr(request, name) is not None:
                raise SpqError(
                    Reason.BAD_ARGUMENT, f"--{name} is for --task detection; leave it out"
                )
    if request.names is not None and request.pictures is None:
        raise SpqError(Reason.BAD_ARGUMENT, "--names is for pictures; add --pictures FOLDER")
    teacher, student = Network(request.teacher), Network(request.student)
    figures: DetectorFigures | ClassifierFigures
    if request.task == "classification":
        figures = compare_classifiers(teacher, student, request.data, request.preprocess, progress)
    else:
        figures = compare_detectors(
            teacher,
            student,
            request.data,
            request.preprocess or Preprocess(),
            request.labels,
            DEFAULT_CONFIDENCE if request.confidence is None else request.confidence,
            request.pictures,
            request.names,
            progress,
        )
    return Comparison(
        str(request.teacher),
        str(request.student),
        request.teacher.stat().st_size,
        request.student.stat().st_size,
        request.task,
        figures,
    )


def comparison_json(comparison: Comparison) -> str:
    """Render a comparison for programs, as one JSON object in ASCII.

    Parameters
    ----------
    comparison : Comparison
        What `run_compare` has found.

    Returns
    -------
    str
        The JSON text; shares and scores from 0 to 1.
    """
    content = {
        "format": JSON_FORMAT,
        **asdict(comparison),
        "ratio": comparison.teacher_bytes / comparison.student_bytes,
    }
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False)


def comparison_text(comparison: Comparison) -> str:
    """Render a comparison for people.

    Parameters
    ----------
    comparison : Comparison
        What `run_compare` has found.

    Returns
    -------
    str
        A table; its last column compares the two before it. Names are escaped.
    """
    figures = comparison.figures
    if isinstance(figures, DetectorFigures):
        rows, counted = _detector_rows(figures), f"on {figures.images:,} images"
    else:
        rows, counted = _classifier_rows(figures), f"on {figures.samples:,} samples"
    before, after = comparison.teacher_bytes, comparison.student_bytes
    sizes = ["file bytes", f"{before:,}", f"{after:,}", f"{before / after:.1f}x smaller"]
    blocks = [
        f"{escape(comparison.teacher)} -> {escape(comparison.student)}",
        table([sizes, *rows], ["", "teacher", "student", ""]),
        counted,
    ]
    return "\n\n".join(blocks)


def _detector_rows(figures: DetectorFigures) -> list[list[str]]:
    """Render objects and scores."""
    least, most = f"{figures.least_confidence:.2f}", f"{figures.confidence:.2f}"
    objects = f"{figures.objects:,}"
    rows = [
        [f"objects of the teacher at {most}", objects, "", ""],
        *(
            [f"  found at {bound}", objects, f"{found:,}", _share(found, figures.objects)]
            for bound, found in ((least, figures.found), (most, figures.found_as_sure))
        ),
        [f"false alarms at {most}", "", f"{figures.false_alarms:,}", ""],
    ]
    own, other = figures.teacher_precision, figures.student_precision
    if own is not None and other is not None:
        rows.append([f"labels for {figures.labelled:,} of {figures.images:,} images", "", "", ""])
        rows += [
            [name, f"{before:.3f}", f"{after:.3f}", _share(after, before)]
            for name, before, after in (
                ("AP50", own.at_half, other.at_half),
                ("AP50:95", own.mean, other.mean),
            )
        ]
    return rows


def _classifier_rows(figures: ClassifierFigures) -> list[list[str]]:
    """Render agreement and accuracy."""
    rows = [
        ["same answer", "", f"{figures.agreement.top1:.2%}", ""],
        ["teacher's answer in top 5", "", f"{figures.agreement.top5:.2%}", ""],
        ["KL divergence in nats", "", f"{figures.divergence:.3g}", ""],
    ]
    own, other = figures.teacher_accuracy, figures.student_accuracy
    if own is not None and other is not None:
        rows += [
            [name, f"{before:.2%}", f"{after:.2%}", f"{100 * (after - before):+.2f} points"]
            for name, before, after in (
                ("accuracy", own.top1, other.top1),
                ("accuracy, top 5", own.top5, other.top5),
            )
        ]
    return rows


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""
