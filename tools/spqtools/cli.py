"""The `spq` command: reads the command line, calls the library, prints one sentence on refusal."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import spq
from spq._extras import extra
from spqformat import SpqError, __version__
from spqtools import parameters
from spqtools.progress import ConsoleProgress
from spqtools.report import escape
from spqtools.waiting import let_threads_sleep

EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130
GOALS = ("sparsity", "target_ratio", "target_size", "max_divergence", "max_drop")

_INPUT = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
_OUTPUT = click.Path(dir_okay=False, path_type=Path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : Sequence of str, optional
        Words after ``spq``; those of the process by default.

    Returns
    -------
    int
        Exit code: 0 done, 2 refused (one sentence on standard error), 130 interrupted.
    """
    try:
        command.main(args=arguments, prog_name="spq", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return _end(EXIT_INTERRUPTED, "interrupted")
    except SystemExit:
        # click's answer to a reader of standard output that has gone, with a code of its own.
        return EXIT_REFUSED
    except click.ClickException as error:
        return _end(EXIT_REFUSED, " ".join(error.format_message().split()))
    except SpqError as error:
        return _end(EXIT_REFUSED, str(error))
    except OSError as error:
        return _end(EXIT_REFUSED, _os_sentence(error))
    except MemoryError:
        return _end(EXIT_REFUSED, _TOO_LARGE)
    except RuntimeError as error:
        # PyTorch has no class of its own for this.
        if "allocate memory" not in str(error):
            raise
        return _end(EXIT_REFUSED, _TOO_LARGE)
    return 0


_TOO_LARGE = "there is not enough memory for this"

_PREPROCESS = click.option(
    "--preprocess",
    metavar="SPEC",
    help="What is done to images, KEY=VALUE with commas: size=416 or size=640x480 (width first), "
    "fit=stretch|letterbox|crop, fill=128 (of a letterbox), scale=255 (pixels are divided by it), "
    "mean=R/G/B and std=R/G/B (after that), order=rgb|bgr, layout=nchw|nhwc.",
)


_MAX_DECODED = click.option(
    "--max-decoded",
    "limits",
    type=parameters.size,
    metavar="SIZE",
    callback=lambda _context, _option, size: size and spq.Limits(max_decoded_bytes=size),
    help="Most bytes that all tensors may take when they are decoded.  [default: 8GiB]",
)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="spq %(version)s")
@click.pass_context
def command(context: click.Context) -> None:
    """Make trained networks many times smaller; PyTorch and ONNX Runtime load the result.

    \b
    First steps:
      spq demo                                          see it work on real data
      spq pack model.pt --arch net.py:build --calib x.npz
      spq inspect model.spq

    Exit codes: 0 done, 2 refused with one sentence on standard error, 130 interrupted. A search
    that --time-limit ends before its goal is done too: "missed" in --json says by how much.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@command.command()
@click.argument("model", type=_INPUT)
@click.option("-o", "--output", type=_OUTPUT, help="File to write.  [default: MODEL with .spq]")
@click.option(
    "--arch",
    metavar="SPEC",
    help="What builds the network of a state dict: MODULE:CALLABLE or FILE.py:CALLABLE. "
    "This code is run: name only code that you trust.",
)
@click.option(
    "--calib",
    type=click.Path(exists=True, path_type=Path),
    help="Calibration inputs: .npz with 'x' (or one array per model input) and optional labels "
    "'y', .npy, or a folder of images; the last quarter judges and does not steer, so mix what "
    "differs. Without it weights are chosen by their size alone, and a state dict gets no program.",
)
@_PREPROCESS
@click.option(
    "--fitness",
    metavar="NAME",
    help="What students are judged by: yolo, for the raw heads of a detector, squared, for outputs "
    "of shape (samples, numbers) that are no classifier's, or MODULE:CALLABLE "
    "or FILE.py:CALLABLE that is given two lists of outputs, the student's and the original's, and "
    "returns a scalar tensor (this code is run).  [default: KL divergence of an output of shape "
    "(samples, classes), squared error of any other and where each sample's length is one]",
)
@click.option(
    "--sparsity",
    type=parameters.number(lambda value: 0 <= value < 1, "at least 0 and below 1"),
    metavar="S",
    help="Goal: this fraction of zeros.",
)
@click.option(
    "--target-ratio",
    type=parameters.number(lambda value: 1 < value < math.inf, "a finite number above 1"),
    metavar="R",
    help="Goal: a file so many times smaller than the float32 bytes.",
)
@click.option(
    "--target-size",
    type=parameters.size,
    metavar="SIZE",
    help="Goal: a file of at most this size: 100kB, 1.5MiB.",
)
@click.option(
    "--max-divergence",
    type=parameters.number(lambda value: 0 < value < math.inf, "a finite number above 0"),
    metavar="D",
    help="Goal: the smallest file whose outputs differ from the original's by at most D: mean KL "
    "divergence in nats for class scores, else squared error as a share of the variance.",
)
@click.option(
    "--max-drop",
    type=parameters.number(lambda value: 0 <= value < 100, "at least 0 and below 100"),
    metavar="POINTS",
    help="Goal: as small as a loss of so many points of accuracy allows; needs labels.",
)
@click.option(
    "--bits",
    type=parameters.bits,
    default="auto",
    show_default=True,
    metavar="N|auto",
    help="At most so many bits for a weight before entropy coding, 1 to 8: 4 allow zero and 15 "
    "other values.",
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "default", "max"]),
    default="default",
    show_default=True,
    help="How much is tried for each layer in each cycle: 2, 14 or 48 sets of zeros.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    metavar="N",
    help="Seed of all random choices: same seed, same bytes on one machine.  [default: 0]",
)
@click.option(
    "--program/--no-program",
    default=True,
    show_default=True,
    help="Store the network's program, so that spq.load and spq.session need no code of yours.",
)
@click.option(
    "--fast-load",
    is_flag=True,
    help="Write a file that opens faster and is a few per cent larger: small networks open in a "
    "half to a seventh of the time.",
)
@click.option(
    "--frontier",
    type=_OUTPUT,
    metavar="JSON",
    help="Also write every point of size and divergence that the search passes: this .json, a .png "
    "and a folder of the same name with each point's packed file.",
)
@click.option(
    "--time-limit",
    type=parameters.duration,
    metavar="TIME",
    help="End the search after this time (90s, 10min, 1h) with the best file found; putting that "
    "on levels is finished first. What is found in time depends on the machine: no longer same "
    "seed, same bytes.",
)
@click.option(
    "--recover",
    metavar="DATA",
    help="After the search, train the small network on the original's outputs, down to the size or "
    "at the sparsity that is the goal. DATA are inputs without labels: .npz, .npy, a folder of "
    "images, which are varied from step to step, or MODULE:CALLABLE or FILE.py:CALLABLE that "
    "yields batches (this code is run).",
)
@click.option(
    "--recover-time",
    type=parameters.duration,
    default="10min",
    show_default=True,
    metavar="TIME",
    help="Longest time for the training of --recover.",
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of an interrupted run.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def pack(
    model: Path,
    output: Path | None,
    arch: str | None,
    calib: Path | None,
    preprocess: str | None,
    fitness: str | None,
    bits: int | None,
    effort: str,
    seed: int,
    program: bool,
    fast_load: bool,
    frontier: Path | None,
    time_limit: float | None,
    recover: str | None,
    recover_time: float,
    resume: bool,
    as_json: bool,
    **goals: Any,
) -> None:
    """Compress a trained network.

    MODEL is a .pt or .pth with a state dict, a .pt2 of torch.export, a .safetensors or an .onnx.

    Give at most one goal; with calibration inputs and no goal it is --max-divergence 0.02. Without
    either nothing is zeroed, and weights are rounded to at most 255 values.

    An interrupted search (Ctrl-C, --time-limit) leaves a checkpoint beside the output; the same
    command with --resume goes on from there.

    \b
    Examples:
      spq pack model.pt --arch net.py:build --calib x.npz
      spq pack model.pt2 --calib x.npz --target-ratio 60 -o small.spq
      spq pack model.pt2 --calib x.npz --max-drop 0.5 --time-limit 10min
      spq pack model.pt2 --calib x.npz --target-size 100kB --frontier points.json
      spq pack model.pt2 --calib x.npz --target-ratio 130 --recover images.npz
      spq pack model.safetensors --sparsity 0.8
      spq pack yolo.onnx --calib images --preprocess size=416,fit=letterbox --fitness yolo \\
        --sparsity 0.9 --bits 4
    """
    chosen = [name for name in GOALS if goals[name] is not None]
    if len(chosen) > 1:
        options = " and ".join(f"--{name.replace('_', '-')}" for name in chosen)
        raise click.UsageError(f"{options} are different goals; give one of them.")
    if chosen and chosen[0].startswith("max_") and calib is None:
        raise click.UsageError(
            f"--{chosen[0].replace('_', '-')} is measured on calibration inputs; add --calib."
        )
    if recover is not None and calib is None:
        raise click.UsageError("--recover begins with a search on calibration inputs; add --calib.")
    if recover is not None and chosen not in (["sparsity"], ["target_ratio"], ["target_size"]):
        raise click.UsageError(
            "--recover trains down to a size or keeps a sparsity; "
            "give one of --target-ratio, --target-size and --sparsity."
        )
    time_is_given = click.get_current_context().get_parameter_source("recover_time")
    if recover is None and time_is_given is not ParameterSource.DEFAULT:
        raise click.UsageError("--recover-time is for the training of --recover; add --recover.")
    if frontier is not None and calib is None:
        raise click.UsageError("--frontier is measured on calibration inputs; add --calib.")
    if time_limit is not None and calib is None:
        raise click.UsageError("--time-limit ends a search on calibration inputs; add --calib.")
    for name, given in (("--preprocess", preprocess), ("--fitness", fitness)):
        if given is not None and calib is None:
            raise click.UsageError(f"{name} is for calibration inputs; add --calib.")
    target = model.with_suffix(".spq") if output is None else output
    let_threads_sleep()
    with extra("all"):
        from spqtools.pack import PackRequest, checkpoint_path, run_pack
        from spqtools.reading.preprocess import parse_preprocess
        from spqtools.report import report_json, report_text
        from spqtools.search.goal import Options
    request = PackRequest(
        model=model,
        output=target,
        options=Options(
            bits=bits,
            effort=effort,
            seed=seed,
            recovers=recover is not None,
            fitness=fitness,
            fast_load=fast_load,
            **goals,
        ),
        arch=arch,
        calibration=calib,
        preprocess=None if preprocess is None else parse_preprocess(preprocess),
        stores_program=program,
        resumes=resume,
        frontier=frontier,
        recovery=recover,
        recovery_time=recover_time,
        time_limit=time_limit,
    )
    try:
        report = run_pack(request, ConsoleProgress())
    except KeyboardInterrupt:
        if checkpoint_path(target).exists():
            click.echo("spq: to go on, give the same command with --resume", err=True)
        raise
    click.echo(report_json(report) if as_json else report_text(report))


@command.command()
@click.argument("file", type=_INPUT)
@_MAX_DECODED
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(file: Path, limits: spq.Limits | None, as_json: bool) -> None:
    """Show what FILE holds, tensor by tensor.

    \b
    Example:
      spq inspect model.spq
    """
    from spqtools.inspection import inspect_file, inspection_json, inspection_text

    inspection = inspect_file(file, limits)
    click.echo(inspection_json(inspection) if as_json else inspection_text(inspection))


@command.command()
@click.argument("file", type=_INPUT)
@_MAX_DECODED
def verify(file: Path, limits: spq.Limits | None) -> None:
    """Decode FILE and check all its checksums.

    \b
    Example:
      spq verify model.spq && scp model.spq device:
    """
    with spq.open(file, limits) as archive:
        archive.verify()
        click.echo(
            f"{escape(str(file))}: sound, {len(archive.keys())} tensors, "
            f"{archive.decoded_bytes:,} bytes decoded, all checksums right"
        )


@command.command()
@click.argument("file", type=_INPUT)
@click.option("-o", "--output", type=_OUTPUT, required=True, help="The .safetensors to write.")
@_MAX_DECODED
def unpack(file: Path, output: Path, limits: spq.Limits | None) -> None:
    """Write the tensors of FILE as .safetensors.

    \b
    Example:
      spq unpack model.spq -o model.safetensors
    """
    with extra("torch"):
        from spqtools.unpack import write_safetensors
    _say_written(output, write_safetensors(file, output, limits))


@command.command()
@click.argument("file", type=_INPUT)
@click.option("-o", "--output", type=_OUTPUT, required=True, help="The .onnx to write.")
@click.option(
    "--compact",
    is_flag=True,
    help="Keep the weights packed in the model; standard operators expand them to the same bits "
    "when a runtime loads it.",
)
@_MAX_DECODED
def export(file: Path, output: Path, compact: bool, limits: spq.Limits | None) -> None:
    """Write FILE as an ordinary ONNX model.

    \b
    Examples:
      spq export model.spq -o model.onnx
      spq export model.spq -o model.onnx --compact
    """
    with extra("onnx"):
        from spqtools.unpack import write_onnx
    _say_written(output, write_onnx(file, output, compact=compact, limits=limits))


@command.command()
@click.argument("file", type=_INPUT)
@click.option(
    "--runs",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    metavar="N",
    help="Processes for each way of loading; the medians are shown, and the smallest.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=2,
    show_default=True,
    metavar="N",
    help="Threads that decode, and those of PyTorch.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def bench(file: Path, runs: int, threads: int, as_json: bool) -> None:
    """Compare how FILE loads and runs with the same weights in other files.

    Each way of loading gets fresh processes, in turns with the others: torch.load and safetensors,
    whose pages are all touched, and ONNX Runtime on an ordinary .onnx. They find their files in
    the page cache.

    start: imports and the first use of the compiled decoder. first load: from the start to the
    tensors. load: a second one in the same process. peak memory: what the first load adds at its
    peak, after the start. Networks run on zeros, with a batch of 1 where that is free. x: the
    figure before it, divided by that of SPQ.

    \b
    Examples:
      spq bench model.spq
      spq bench model.spq --runs 20 --json
    """
    from spqtools.benchmark.processes import benchmark_json, benchmark_text, run_benchmark

    found = run_benchmark(file, runs, threads, ConsoleProgress())
    click.echo(benchmark_json(found) if as_json else benchmark_text(found))


@command.command()
@click.argument("teacher", type=_INPUT)
@click.argument("student", type=_INPUT)
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="Folder of images; for classification also .npz with 'x' and optional labels 'y'.",
)
@click.option(
    "--task",
    type=click.Choice(["detection", "classification"]),
    required=True,
    help="What the networks do.",
)
@_PREPROCESS
@click.option(
    "--labels",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with a text for each image, lines 'class x y width height' as YOLO has them; "
    "detection is scored with COCO's AP50 and AP50:95. An image without a text counts as empty.",
)
@click.option(
    "--confidence",
    type=parameters.number(lambda value: 0.01 <= value <= 1, "from 0.01 to 1"),
    metavar="C",
    help="Objects count that the teacher finds with at least this confidence.  [default: 0.8]",
)
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write a picture of each image with what both detectors find.",
)
@click.option(
    "--names",
    type=_INPUT,
    metavar="FILE",
    help="Names of the classes in pictures, one a line, as Darknet's coco.names.  "
    "[default: those that TEACHER has in its metadata]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(preprocess: str | None, as_json: bool, **given: Any) -> None:
    """Compare what STUDENT answers with what TEACHER answers.

    Both are .onnx, or .spq with an ONNX program.

    Detection: the student has found an object of the teacher when it has a detection of the same
    class there (intersection over union of at least 0.5) with a confidence of at least 0.5. A false
    alarm is an object that the student finds with at least --confidence where the teacher finds
    none with at least 0.5.

    Pictures show the teacher at the left and the student at the right: green is what both find, red
    what the student has lost, orange its false alarms, grey what it sees besides and does not
    count. Sides of more than 2,000 pixels are made smaller.

    Outputs of detectors are read in three layouts: 1x(4+CLASSES)xN of YOLOv8 and later,
    1xNx(5+CLASSES) of YOLOv5 and YOLOv7, and 1xNx4 with 1xCLASSESxN of YOLOv3 of the ONNX model
    zoo, which takes the image's size too. Export networks without NMS: overlapping boxes are
    sorted out here, and a graph that gives the chosen ones alone is refused.

    Classification: how often the teacher's answer is the student's, or among its first five.

    \b
    Examples:
      spq compare yolo.onnx yolo.spq --data images --task detection \\
        --preprocess size=416,fit=letterbox --labels labels --pictures seen
      spq compare net.onnx net.spq --data test.npz --task classification --json
    """
    with extra("all"):
        from spqtools.comparison.request import (
            CompareRequest,
            comparison_json,
            comparison_text,
            run_compare,
        )
        from spqtools.reading.preprocess import parse_preprocess
    steps = None if preprocess is None else parse_preprocess(preprocess)
    found = run_compare(CompareRequest(preprocess=steps, **given), ConsoleProgress())
    click.echo(comparison_json(found) if as_json else comparison_text(found))


@command.command()
def warmup() -> None:
    """Compile the decoder once, so that the first load is fast.

    Run it where a service is installed or its image is built, on the kind of processor that will
    load files. SPQ_CACHE_DIR names the folder for what is compiled.

    \b
    Example:
      spq warmup
    """
    click.echo(f"the kernels are compiled in {escape(str(spq.warmup()))}")


@command.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for the files of the demonstration.",
)
def demo(output: Path) -> None:
    """Show the whole way on real data.

    Trains a small network on handwritten digits that scikit-learn ships, packs it, loads it in
    PyTorch and in ONNX Runtime, and compares size and accuracy.

    \b
    Example:
      spq demo
    """
    let_threads_sleep()
    with extra("all"):
        from spqtools.demo import run_demo
    click.echo(run_demo(output, ConsoleProgress()))


def _say_written(output: Path, written_bytes: int) -> None:
    """Say what has been written."""
    click.echo(f"{escape(str(output))}: {written_bytes:,} bytes written")


def _os_sentence(error: OSError) -> str:
    """Say what the system refused, with the file where it names one."""
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def _end(code: int, sentence: str) -> int:
    """Print the sentence on standard error and pass the exit code on."""
    click.echo(f"spq: {escape(sentence)}", err=True)
    return code
