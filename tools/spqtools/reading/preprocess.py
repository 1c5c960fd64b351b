"""Turns images of any size into what a network takes, and says where in it they lie."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spq._extras import extra
from spqformat import Reason, SpqError

if TYPE_CHECKING:
    from PIL.Image import Image

OPTION = "--preprocess"
_SIZE = re.compile(r"([1-9]\d{0,3})(?:x([1-9]\d{0,3}))?", re.ASCII)
_CHANNELS = 3
# Between these, pixels remain finite whatever is done to them.
_SMALLEST, _LARGEST = 1e-6, 1e6

Region = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the input that was made of it.

    Parameters
    ----------
    scale : tuple of float and float
        Pixels of the input for one of the image, horizontally and vertically.
    offset : tuple of float and float
        Where the image's left top corner lies in the input; negative where it is cut off.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def to_image(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map boxes from the input to the image.

        Parameters
        ----------
        boxes : array of shape (n, 4)
            Left, top, right and bottom in pixels of the input.

        Returns
        -------
        array of shape (n, 4)
            The same in pixels of the image.
        """
        moved: NDArray[np.float64] = (boxes - np.tile(self.offset, 2)) / np.tile(self.scale, 2)
        return moved


@dataclass(frozen=True)
class Preprocess:
    """What is done to each image.

    Parameters
    ----------
    size : tuple of int and int, optional
        Width and height of the input; without it images keep their size.
    fit : str
        How an image of other proportions comes to that size: ``stretch``; ``letterbox``, which
        keeps the proportions and pads both sides evenly; ``crop``, which resizes the short side and
        cuts out the centre.
    fill : int
        Value of the pixels of the padding, 0 to 255.
    scale : float
        What pixels are divided by.
    mean, std : tuple of float
        What is then subtracted from each channel, and what it is divided by after that, in the
        order of the channels that the network sees.
    order : str
        Order of the channels: ``rgb`` or ``bgr``.
    layout : str
        Order of the dimensions: ``nchw`` or ``nhwc``.
    """

    size: tuple[int, int] | None = None
    fit: str = "stretch"
    fill: int = 128
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,) * _CHANNELS
    std: tuple[float, ...] = (1.0,) * _CHANNELS
    order: str = "rgb"
    layout: str = "nchw"

    def apply(self, image: "Image") -> NDArray[np.float32]:
        """Make the input for one image.

        Parameters
        ----------
        image : PIL.Image.Image
            An image in RGB.

        Returns
        -------
        array of float32
            The input without the dimension of the samples.

        Raises
        ------
        SpqError
            `missing_extra` without Pillow.
        """
        pixels = np.asarray(self._fitted(image), dtype=np.float32)
        if self.order == "bgr":
            pixels = pixels[..., ::-1]
        mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
        pixels = (pixels / np.float32(self.scale) - mean) / std
        return np.ascontiguousarray(pixels.transpose(2, 0, 1) if self.layout == "nchw" else pixels)

    def placement(self, width: int, height: int) -> Placement:
        """Say where an image lies in the input that `apply` makes of it.

        Parameters
        ----------
        width, height : int
            Size of the image.

        Returns
        -------
        Placement
            Its scale and offset.
        """
        if self.size is None:
            return Placement()
        taken, place = self._regions(width, height, self.size)
        across = (place[2] - place[0]) / (taken[2] - taken[0])
        down = (place[3] - place[1]) / (taken[3] - taken[1])
        return Placement((across, down), (place[0] - across * taken[0], place[1] - down * taken[1]))

    def _fitted(self, image: "Image") -> "Image":
        """Bring an image to the size."""
        if self.size is None:
            return image
        with extra("all"):
            from PIL import Image
        taken, (left, top, right, bottom) = self._regions(*image.size, self.size)
        resized = image.resize((right - left, bottom - top), Image.Resampling.BICUBIC, taken)
        if resized.size == self.size:
            return resized
        padded = Image.new("RGB", self.size, (self.fill,) * _CHANNELS)
        padded.paste(resized, (left, top))
        return padded

    def _regions(
        self, width: int, height: int, size: tuple[int, int]
    ) -> tuple[Region, tuple[int, int, int, int]]:
        """Return what is taken of an image, and where in the input it comes to lie."""
        ratios = size[0] / width, size[1] / height
        taken = (0.0, 0.0, float(width), float(height))
        if self.fit == "crop":
            # A part of the image is resized, as the whole of a long one might be enormous.
            kept = min(width, size[0] / max(ratios)), min(height, size[1] / max(ratios))
            left, top = (width - kept[0]) / 2, (height - kept[1]) / 2
            taken = (left, top, min(left + kept[0], width), min(top + kept[1], height))
        if self.fit != "letterbox":
            return taken, (0, 0, *size)
        inner = [max(1, round(length * min(ratios))) for length in (width, height)]
        x, y = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        return taken, (x, y, x + inner[0], y + inner[1])


def parse_preprocess(spec: str) -> Preprocess:
    """Read what is to be done to images from the command line.

    Parameters
    ----------
    spec : str
        ``KEY=VALUE`` separated by commas; the keys are the parameters of `Preprocess`:
        ``size=416,fit=letterbox,fill=128`` or
        ``size=224x224,fit=crop,mean=0.485/0.456/0.406,std=0.229/0.224/0.225``.

    Returns
    -------
    Preprocess
        What is to be done.

    Raises
    ------
    SpqError
        `bad_argument` for a key that is unknown, given twice or without effect, and for values that
        it cannot have.
    """
    values: dict[str, Any] = {}
    for part in spec.split(","):
        key, _, text = part.partition("=")
        if key not in _READERS:
            known = ", ".join(_READERS)
            raise _refuse(f"{part!r} is not KEY=VALUE with one of the keys {known}")
        if key in values:
            raise _refuse(f"{key} is given twice; give it once")
        read, expected = _READERS[key]
        value = read(text)
        if value is None:
            raise _refuse(f"{key}={text} is not {expected}")
        values[key] = value
    if "fit" in values and "size" not in values:
        raise _refuse("fit tells how images come to a size; add size=WIDTHxHEIGHT")
    if "fill" in values and values.get("fit") != "letterbox":
        raise _refuse("fill is for what a letterbox pads; add fit=letterbox")
    return Preprocess(**values)


def _read_size(text: str) -> tuple[int, int] | None:
    match = _SIZE.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2] or match[1]))


def _read_fill(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= 3):
        return None
    return int(text) if int(text) <= 255 else None


def _read_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= _LARGEST else None


def _read_positive(text: str) -> float | None:
    value = _read_number(text)
    return value if value is not None and value >= _SMALLEST else None


def _for_channels(read: Callable[[str], float | None]) -> Callable[[str], Any]:
    """Make a reader of one number for each channel."""

    def read_all(text: str) -> tuple[float | None, ...] | None:
        numbers = tuple(map(read, text.split("/")))
        return numbers if len(numbers) == _CHANNELS and None not in numbers else None

    return read_all


def _one_of(*words: str) -> tuple[Callable[[str], str | None], str]:
    """Make a reader of one of some words, and say what it expects."""
    return lambda text: text if text in words else None, " or ".join(words)


def _refuse(message: str) -> SpqError:
    return SpqError(Reason.BAD_ARGUMENT, f"{OPTION}: {message}")


_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "size": (_read_size, "a size such as 416 or 640x480"),
    "fit": _one_of("letterbox", "stretch", "crop"),
    "fill": (_read_fill, "a whole number from 0 to 255"),
    "scale": (_read_positive, "a number from 0.000001 to 1000000"),
    "mean": (_for_channels(_read_number), "three numbers of usual size such as 0.485/0.456/0.406"),
    "std": (
        _for_channels(_read_positive),
        "three numbers from 0.000001 to 1000000 such as 0.229/0.224/0.225",
    ),
    "order": _one_of("rgb", "bgr"),
    "layout": _one_of("nchw", "nhwc"),
}
