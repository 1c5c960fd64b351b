"""Writes the dictionary of program codec 2, `spqformat/program_dictionary.bin` (SPQ-1, 4.2).

    python spec/program_dictionary.py FILE

The dictionary is the programs of a few textbook networks, one after the other, as the writers of
this project write them: blocks of layers and names that networks of many kinds have in common. The
most common ones stand last, where the compressor reaches them with the fewest bits. Of the others,
what comes again later is left out.

The file that is committed is the dictionary, not what this prints: other versions of PyTorch and
ONNX may write other programs.
"""

import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu, scaled_dot_product_attention

from spqtools.reading.ingest import Source
from spqtools.reading.programs import trace, write_programs


class Block(nn.Module):
    """A block of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.qkv, self.proj = nn.LayerNorm(64), nn.Linear(64, 192), nn.Linear(64, 64)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(64), nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x: Tensor) -> Tensor:
        """Attend, then transform each token."""
        count, tokens, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(count, tokens, 3, 4, width // 4)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        seen = scaled_dot_product_attention(query, key, value)
        x = x + self.proj(seen.transpose(1, 2).reshape(count, tokens, width))
        transformed: Tensor = self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return x + transformed


class Transformer(nn.Module):
    """A transformer over patches of images."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.blocks = nn.Conv2d(3, 64, 4, 4), nn.Sequential(Block())
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        scores: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return scores


class Residual(nn.Module):
    """A residual block; the first of a layer changes the size."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample = None
        if stride == 2:
            shortcut = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Add what the block finds."""
        found = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(found + (x if self.downsample is None else self.downsample(x)))


class ResidualNetwork(nn.Module):
    """A residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Residual(8, 8), Residual(8, 16))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        x = max_pool2d(relu(self.bn1(self.conv1(x))), 3, 2, 1)
        scores: Tensor = self.fc(torch.flatten(self.avgpool(self.layer1(x)), 1))
        return scores


class Convolutions(nn.Module):
    """A small convolutional network, each layer an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 5), nn.Conv2d(8, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 64), nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        x = max_pool2d(relu(self.conv1(x)), 2)
        x = torch.flatten(max_pool2d(relu(self.conv2(x)), 2), 1)
        scores: Tensor = self.fc3(relu(self.fc2(relu(self.fc1(x)))))
        return scores


def mobile() -> nn.Module:
    """Build an inverted residual without its shortcut."""
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(
                nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()),
                nn.Sequential(
                    nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False),
                    nn.BatchNorm2d(16),
                    nn.ReLU6(),
                ),
            ),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(nn.Dropout(0.2), nn.Linear(16, 10)),
        )
    )


def deep() -> nn.Module:
    """Build a plain deep convolutional network."""
    features: list[nn.Module] = []
    for before, after in ((3, 8), (8, 16)):
        features += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        features += [nn.Conv2d(after, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
    classifier = nn.Sequential(
        nn.Linear(256, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    parts = OrderedDict(
        features=nn.Sequential(*features),
        avgpool=nn.AdaptiveAvgPool2d((4, 4)),
        flatten=nn.Flatten(),
        classifier=classifier,
    )
    return nn.Sequential(parts)


def autoencoder() -> nn.Module:
    """Build an autoencoder of convolutions."""
    encoder = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.LeakyReLU(0.2))
    decoder = nn.Sequential(nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Tanh())
    return nn.Sequential(OrderedDict(encoder=encoder, decoder=decoder))


def normalised() -> nn.Module:
    """Build a perceptron with batch normalisation."""
    return nn.Sequential(
        *(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1)),
        *(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 16), nn.Sigmoid()),
        *(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4), nn.Softmax(-1)),
    )


def perceptron() -> nn.Module:
    """Build a perceptron."""
    return nn.Sequential(
        *(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU()),
        *(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)),
    )


def named_perceptron() -> nn.Module:
    """Build a perceptron over images whose layers have names."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(((256, 128), (128, 64), (64, 32), (32, 10)), 1):
        layers[f"fc{number}"] = nn.Linear(before, after)
        layers[f"relu{number}"] = nn.ReLU()
    del layers["relu4"]
    return nn.Sequential(layers)


BOTH = ("onnx", "torch")
# Rarest first. Attention is many nodes in ONNX, of networks that are large in any case.
NETWORKS: Sequence[tuple[Callable[[], nn.Module], tuple[int, ...], Sequence[str]]] = (
    (Transformer, (2, 3, 16, 16), ("torch",)),
    (autoencoder, (2, 1, 16, 16), BOTH),
    (mobile, (2, 8, 16, 16), BOTH),
    (ResidualNetwork, (2, 3, 32, 32), BOTH),
    (deep, (2, 3, 16, 16), BOTH),
    (normalised, (2, 32), BOTH),
    (perceptron, (2, 32), BOTH),
    (named_perceptron, (2, 1, 16, 16), BOTH),
    (Convolutions, (2, 3, 32, 32), BOTH),
)
WHOLE_PROGRAMS = 6
LEAST_REPEATED_BYTES = 20


def without_repeated(program: bytes, later: bytes) -> bytes:
    """Leave out what stands in `later` too, in long pieces."""
    kept = bytearray()
    start = 0
    while start < len(program):
        end = start + LEAST_REPEATED_BYTES
        if end > len(program) or program[start:end] not in later:
            kept.append(program[start])
            start += 1
            continue
        while end < len(program) and program[start : end + 1] in later:
            end += 1
        start = end
    return bytes(kept)


def main(arguments: Sequence[str]) -> int:
    """Write the dictionary; return 0, or 2 for a wrong call."""
    if len(arguments) != 1:
        sys.stderr.write("usage: program_dictionary.py FILE\n")
        return 2
    programs: list[bytes] = []
    for build, shape, kinds in NETWORKS:
        network = build().eval()
        state = dict(network.state_dict())
        traced = trace(Source(state, "", module=network), (torch.zeros(shape),))
        assert traced is not None
        stored = write_programs(traced, state).stored
        programs += [stored[kind] for kind in kinds]
    content = b"".join(programs[-WHOLE_PROGRAMS:])
    for program in reversed(programs[:-WHOLE_PROGRAMS]):
        content = without_repeated(program, content) + content
    Path(arguments[0]).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
