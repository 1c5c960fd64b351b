"""Finds objects in images with a YOLO network, packed (.spq) or not (.onnx)."""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from spqformat import SpqError
from spqtools.comparison.detections import Detections, UnknownLayoutError, read_detections
from spqtools.comparison.network import Network
from spqtools.comparison.pictures import check_picture_folder
from spqtools.comparison.yolo_labels import read_names
from spqtools.reading.images import image_files, read_image
from spqtools.reading.preprocess import Preprocess, parse_preprocess
from spqtools.report import escape


def main() -> None:
    """Print a line for each object: the image, left, top, right, bottom, confidence, class."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="network in .spq or .onnx")
    parser.add_argument("images", type=Path, help="an image, or a folder of images")
    parser.add_argument("--preprocess", required=True, help="as in spq pack")
    parser.add_argument("--confidence", type=float, default=0.5, help="least (%(default)s)")
    parser.add_argument("--names", type=Path, help="text with the name of a class on each line")
    parser.add_argument("--pictures", type=Path, help="new folder for images with boxes")
    options = parser.parse_args()
    try:
        _run(options)
    except UnknownLayoutError as error:
        sys.exit(f"detect.py: {options.model} {error}")
    except (SpqError, OSError) as error:
        sys.exit(f"detect.py: {error}")


def _run(options: argparse.Namespace) -> None:
    preprocess = parse_preprocess(options.preprocess)
    network = Network(options.model)  # spq.session opens an .spq, ONNX Runtime an .onnx
    names = network.class_names
    if options.names is not None:
        names = read_names(options.names)
    if options.pictures is not None:
        check_picture_folder(options.pictures)
        options.pictures.mkdir(parents=True, exist_ok=True)
    for file in image_files(options.images) if options.images.is_dir() else [options.images]:
        image = read_image(file)
        found = detect(network, image, preprocess).at_least(options.confidence)
        draw = ImageDraw.Draw(image)
        boxes = found.boxes.round().astype(int).tolist()
        for box, kind, confidence in zip(
            boxes, found.classes.tolist(), found.confidences.tolist(), strict=True
        ):
            text = f"{confidence:.2f} {escape(names.get(kind, str(kind)))}"
            print(escape(file.name), *box, text)
            draw.rectangle(box, outline="limegreen", width=2)
            draw.rectangle(draw.textbbox(box[:2], text, font_size=14), fill="limegreen")
            draw.text(box[:2], text, fill="black", font_size=14)
        if options.pictures is not None:
            image.save(options.pictures / file.name)


def detect(network: Network, image: Image.Image, preprocess: Preprocess) -> Detections:
    """Find the objects of an image in RGB; their boxes are in pixels of the image."""
    feeds = {}
    for value in network.inputs:
        if len(value.shape) == 4:
            feeds[value.name] = preprocess.apply(image)[None]
        else:  # tiny-YOLOv3 of the ONNX model zoo takes the image's height and width
            feeds[value.name] = np.array([[image.height, image.width]], dtype=np.float32)
    placement = preprocess.placement(*image.size) if len(feeds) == 1 else None
    return read_detections(network.run(feeds), placement, image.size)


if __name__ == "__main__":
    main()
