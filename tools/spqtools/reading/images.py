"""Finds and opens the images of a folder."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from spq._extras import extra
from spqformat import Reason, SpqError

if TYPE_CHECKING:
    from PIL.Image import Image

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_MOST_PIXELS = 1 << 26


def image_files(folder: Path) -> list[Path]:
    """List the images of a folder.

    Parameters
    ----------
    folder : Path
        The folder; folders in it are not looked into.

    Returns
    -------
    list of Path
        At least one, by name.

    Raises
    ------
    SpqError
        `bad_calibration` for a folder without images.
    OSError
        The folder cannot be read.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise SpqError(
            Reason.BAD_CALIBRATION,
            f"{folder} holds no images; known are .jpg, .png, .bmp and .webp, "
            "and folders in it are not searched",
        )
    return files


def read_image(file: Path) -> "Image":
    """Open and decode an image.

    Parameters
    ----------
    file : Path
        The image.

    Returns
    -------
    PIL.Image.Image
        The image in RGB.

    Raises
    ------
    SpqError
        `bad_calibration` for what is no image or damaged; `missing_extra` without Pillow.
    OSError
        The file cannot be read.
    """
    with extra("all"):
        from PIL import Image, ImageOps
    try:
        with warnings.catch_warnings():
            # What is too large is refused below.
            warnings.simplefilter("ignore")
            image = Image.open(file)
        with image:
            if image.width * image.height > _MOST_PIXELS:
                raise _too_large(file)
            # Cameras say in words which side is up.
            return ImageOps.exif_transpose(image).convert("RGB")
    except SpqError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(file) from error
    except Exception as error:  # Pillow raises whatever its parts raise on damaged images
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise SpqError(Reason.BAD_CALIBRATION, f"{file} is not an image, or damaged") from error


def _too_large(file: Path) -> SpqError:
    return SpqError(
        Reason.BAD_CALIBRATION, f"{file} has more than {_MOST_PIXELS:,} pixels; make it smaller"
    )
