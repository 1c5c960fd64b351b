"""Draws what two detectors find in an image, side by side."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spq._extras import extra
from spqformat import Reason, SpqError
from spqformat.atomic import write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

FOUND, LOST, EXTRA, UNCOUNTED = "limegreen", "red", "orange", "silver"
PAPER = "white"
MOST_SIDE_PIXELS = 2000
HEAD_PIXELS = 24
GAP_PIXELS = 4
_TEXT_PIXELS = 14
_LINE_PIXELS = 2
_QUALITY = 90


@dataclass(frozen=True)
class Mark:
    """A box to draw.

    Parameters
    ----------
    box : sequence of float
        Left, top, right and bottom in pixels of the image.
    text : str
        What stands at its top.
    colour : str
        Name of its colour.
    """

    box: Sequence[float]
    text: str
    colour: str


@dataclass(frozen=True)
class Half:
    """One side of a picture.

    Parameters
    ----------
    head : sequence of tuple of str and str
        What stands above the image: texts and their colours.
    marks : sequence of Mark
        Boxes, the last ones on top.
    """

    head: Sequence[tuple[str, str]]
    marks: Sequence[Mark]


def check_picture_folder(folder: Path) -> None:
    """Refuse a folder in which pictures might replace something.

    Parameters
    ----------
    folder : Path
        A folder that is not there yet, or an empty one.

    Raises
    ------
    SpqError
        `bad_argument` for a folder that holds something.
    OSError
        The folder cannot be read.
    """
    if folder.exists() and any(folder.iterdir()):
        raise SpqError(
            Reason.BAD_ARGUMENT, f"{folder} holds files already; name a new folder for the pictures"
        )


def write_picture(file: Path, image: "Image", left: Half, right: Half) -> None:
    """Write an image twice, side by side, each with its own boxes.

    Sides of more than 2,000 pixels are made smaller: texts stay readable, and JPEG has a limit.

    Parameters
    ----------
    file : Path
        The JPEG to write; its folder is made where it is missing.
    image : PIL.Image.Image
        The image in RGB.
    left, right : Half
        What is drawn on both.

    Raises
    ------
    SpqError
        `missing_extra` without Pillow.
    OSError
        The file cannot be written.
    """
    with extra("all"):
        from PIL import Image
    small = image.copy()
    small.thumbnail((MOST_SIDE_PIXELS, MOST_SIDE_PIXELS))
    width, height = small.size
    scale = width / image.width, height / image.height
    picture = Image.new("RGB", (2 * width + GAP_PIXELS, height + HEAD_PIXELS), PAPER)
    for x, half in ((0, left), (width + GAP_PIXELS, right)):
        picture.paste(_drawn(small, half, scale), (x, 0))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, [stream.getvalue()])


def _drawn(image: "Image", half: Half, scale: tuple[float, float]) -> "Image":
    """Draw one side, with its head; boxes are brought to the scale of the image."""
    with extra("all"):
        from PIL import Image, ImageDraw
    width, height = image.size
    side = Image.new("RGB", (width, height + HEAD_PIXELS), PAPER)
    side.paste(image, (0, HEAD_PIXELS))
    draw = ImageDraw.Draw(side)
    for mark in half.marks:
        left, top, right, bottom = np.multiply(mark.box, scale * 2).tolist()
        top, bottom = top + HEAD_PIXELS, bottom + HEAD_PIXELS
        draw.rectangle((left, top, right, bottom), outline=mark.colour, width=_LINE_PIXELS)
        _write(draw, left, top, mark.text, mark.colour)
    x = 0.0
    for text, colour in half.head:
        x = _write(draw, x, 0.0, text, colour) + _LINE_PIXELS
    return side


def _write(draw: "ImageDraw", left: float, top: float, text: str, colour: str) -> float:
    """Write a text on its colour, and return where it ends."""
    with extra("all"):
        from PIL import ImageFont
    font = ImageFont.load_default(_TEXT_PIXELS)
    corner = left + _LINE_PIXELS, top + _LINE_PIXELS
    ground = draw.textbbox(corner, text, font=font)
    draw.rectangle(ground, fill=colour)
    draw.text(corner, text, fill="black", font=font)
    return ground[2]
