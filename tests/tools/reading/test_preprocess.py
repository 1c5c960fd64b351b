"""Images become what a network takes, and boxes find their way back."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spqformat import Reason, SpqError
from spqtools.reading.calibration import read_calibration
from spqtools.reading.preprocess import Placement, Preprocess, parse_preprocess
from spqtools.reading.unlabelled import read_unlabelled

WIDE = (8, 4)
NOISE = np.random.default_rng(5).integers(0, 256, (7, 11, 3), dtype="u1")


def halves(size: tuple[int, int]) -> Image.Image:
    """A red left half beside a blue right half."""
    pixels = np.zeros((size[1], size[0], 3), dtype="u1")
    pixels[:, : size[0] // 2, 0] = 255
    pixels[:, size[0] // 2 :, 2] = 255
    return Image.fromarray(pixels)


def refusal(spec: str) -> str:
    with pytest.raises(SpqError) as caught:
        parse_preprocess(spec)
    assert caught.value.code is Reason.BAD_ARGUMENT
    assert caught.value.message.startswith("--preprocess: ")
    return caught.value.message


# Reading the option


def test_all_keys() -> None:
    spec = "size=640x480,fit=letterbox,fill=0,scale=1,mean=1/2/-3,std=4/5/6,order=bgr,layout=nhwc"
    assert parse_preprocess(spec) == Preprocess(
        (640, 480), "letterbox", 0, 1.0, (1.0, 2.0, -3.0), (4.0, 5.0, 6.0), "bgr", "nhwc"
    )


def test_defaults() -> None:
    assert parse_preprocess("size=416") == Preprocess(
        (416, 416), "stretch", 128, 255.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "rgb", "nchw"
    )


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ("", "'' is not KEY=VALUE"),
        ("size=4,", "'' is not KEY=VALUE"),
        ("size", "size= is not a size"),
        ("width=4", "'width=4' is not KEY=VALUE with one of the keys size, fit"),
        ("size=4, fit=crop", "' fit=crop' is not"),
        ("size=4,size=5", "size is given twice"),
        ("size=0", "size=0 is not a size"),
        ("size=4x", "size=4x is not"),
        ("size=-4", "size=-4 is not"),
        ("size=99999", "size=99999 is not"),
        ("size=４", "is not a size"),
        ("size=4,fit=zoom", "fit=zoom is not letterbox or stretch or crop"),
        ("size=4,fit=letterbox,fill=256", "fill=256 is not a whole number"),
        ("size=4,fit=letterbox,fill=-1", "fill=-1 is not"),
        ("size=4,fit=letterbox,fill=²", "fill=² is not"),
        ("scale=0", "scale=0 is not"),
        ("scale=nan", "scale=nan is not"),
        ("scale=1e-9", "scale=1e-9 is not"),
        ("mean=0.5", "mean=0.5 is not three numbers"),
        ("mean=1/2/x", "mean=1/2/x is not"),
        ("mean=1/2/inf", "mean=1/2/inf is not"),
        ("std=1/0/1", "std=1/0/1 is not three numbers"),
        ("std=1/1/1/1", "std=1/1/1/1 is not"),
        ("order=gbr", "order=gbr is not rgb or bgr"),
        ("layout=chw", "layout=chw is not nchw or nhwc"),
        ("fit=crop", "add size="),
        ("size=4,fill=0", "add fit=letterbox"),
    ],
)
def test_what_is_refused(spec: str, part: str) -> None:
    assert part in refusal(spec)


# Values


def test_without_anything_pixels_become_fractions() -> None:
    expected = NOISE.transpose(2, 0, 1).astype("f4") / np.float32(255)
    array = Preprocess().apply(Image.fromarray(NOISE))
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    assert np.array_equal(array, expected)


def test_mean_and_std_follow_the_order_of_the_channels() -> None:
    steps = parse_preprocess("order=bgr,scale=1,mean=10/20/30,std=1/2/4,layout=nhwc")
    expected = (NOISE[..., ::-1].astype("f4") - np.array([10, 20, 30], "f4")) / np.array(
        [1, 2, 4], "f4"
    )
    array = steps.apply(Image.fromarray(NOISE))
    assert array.flags.c_contiguous
    assert np.array_equal(array, expected)


def test_extreme_numbers_remain_finite() -> None:
    steps = parse_preprocess("scale=0.000001,mean=-1e6/0/1e6,std=1e-6/1e-6/1e-6")
    assert np.isfinite(steps.apply(Image.fromarray(NOISE))).all()


def test_stretch_is_bicubic() -> None:
    image = Image.fromarray(NOISE)
    expected = np.asarray(image.resize((5, 9), Image.Resampling.BICUBIC))
    array = parse_preprocess("size=5x9,scale=1,layout=nhwc").apply(image)
    assert np.array_equal(array, expected.astype("f4"))


def test_letterbox_pads_both_sides_evenly() -> None:
    array = parse_preprocess("size=8,fit=letterbox,fill=51,scale=1").apply(halves(WIDE))
    assert array.shape == (3, 8, 8)
    assert (array[:, :2] == 51).all()
    assert (array[:, 6:] == 51).all()
    assert np.array_equal(array[:, 2:6], np.asarray(halves(WIDE)).transpose(2, 0, 1))


def test_crop_cuts_out_the_centre() -> None:
    array = parse_preprocess("size=4,fit=crop,scale=1").apply(halves(WIDE))
    whole = np.asarray(halves(WIDE)).transpose(2, 0, 1)
    assert np.array_equal(array, whole[:, :, 2:6])


def test_an_image_that_fits_is_left_alone() -> None:
    for fit in ("letterbox", "stretch", "crop"):
        array = parse_preprocess(f"size=11x7,fit={fit},scale=1,layout=nhwc").apply(
            Image.fromarray(NOISE)
        )
        assert np.array_equal(array, NOISE.astype("f4"))


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1), (13, 9)])
@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
def test_any_size_fits(size: tuple[int, int], fit: str) -> None:
    steps = parse_preprocess(f"size=31x17,fit={fit}")
    array = steps.apply(Image.new("RGB", size, (51, 102, 153)))
    assert array.shape == (3, 17, 31)
    assert np.allclose(array[:, 8, 15], [0.2, 0.4, 0.6], atol=1e-6)


# Where images lie


def test_placements() -> None:
    assert Preprocess().placement(30, 20) == Placement((1, 1), (0, 0))
    assert parse_preprocess("size=60x10").placement(30, 20) == Placement((2, 0.5), (0, 0))
    letterbox = parse_preprocess("size=416,fit=letterbox")
    assert letterbox.placement(832, 416) == Placement((0.5, 0.5), (0, 104))
    assert letterbox.placement(208, 416) == Placement((1, 1), (104, 0))
    crop = parse_preprocess("size=100,fit=crop").placement(400, 200)
    assert crop == Placement((0.5, 0.5), (-50, 0))


def test_letterbox_of_whole_pixels_is_told_exactly() -> None:
    # 500 x 333 becomes 416 x 277, so that the scales differ by the rounding.
    placement = parse_preprocess("size=416,fit=letterbox").placement(500, 333)
    assert placement == Placement((416 / 500, 277 / 333), (0, 69))


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
def test_boxes_come_back(fit: str) -> None:
    image = np.zeros((300, 500, 3), dtype="u1")
    image[120:180, 210:330] = 255
    steps = Preprocess((200, 260), fit, fill=0)
    seen = steps.apply(Image.fromarray(image))[0] > 0.5
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], dtype="f8")
    placement = steps.placement(500, 300)
    pixel = 1 / np.tile(placement.scale, 2)
    assert (np.abs(placement.to_image(box) - [210, 120, 330, 180]) <= pixel).all()


# Folders


def test_folder_of_images_of_any_size(tmp_path: Path) -> None:
    for number, size in enumerate([(11, 7), (3, 5)]):
        Image.new("RGB", size, (255, 0, 0)).save(tmp_path / f"{number}.png")
    steps = parse_preprocess("size=6x4,mean=1/0/0")
    (inputs,) = read_calibration(tmp_path, steps).inputs
    assert inputs.shape == (2, 3, 4, 6)
    assert not inputs.any()
    (again,) = read_unlabelled(str(tmp_path), [inputs], steps)
    assert again.equal(inputs)


@pytest.mark.parametrize("name", ["c.npz", "c.npy"])
def test_arrays_are_not_images(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "c.npz", x=NOISE)
    np.save(tmp_path / "c.npy", NOISE)
    with pytest.raises(SpqError, match="is for folders of images") as caught:
        read_calibration(tmp_path / name, Preprocess())
    assert caught.value.code is Reason.BAD_ARGUMENT


def test_the_side_that_a_camera_held_up_is_up(tmp_path: Path) -> None:
    """Orientation 6: the first row of the file is the right side of the picture."""
    pixels = np.zeros((2, 4, 3), dtype=np.uint8)
    pixels[0] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    (inputs,) = read_calibration(tmp_path).inputs
    assert inputs.shape == (1, 3, 4, 2)
    assert inputs[0, 0].tolist() == [[0.0, 1.0]] * 4


def test_an_image_of_too_many_pixels(tmp_path: Path) -> None:
    Image.new("1", (1 << 14, (1 << 12) + 1)).save(tmp_path / "a.png")
    with pytest.raises(SpqError, match=r"a\.png has more than 67,108,864 pixels") as caught:
        read_calibration(tmp_path)
    assert caught.value.code is Reason.BAD_CALIBRATION
