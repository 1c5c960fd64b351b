"""MiniLM-L6, a sentence encoder of the BERT family, built from its published weights."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

WIDTH, HEADS, LAYERS = 384, 12, 6
_PARTS = {
    "self_attn.out_proj": "attention.output.dense",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm1": "attention.output.LayerNorm",
    "norm2": "output.LayerNorm",
}


class MiniLM(nn.Module):
    """Token numbers to one vector for each sentence: the mean of its tokens' states.

    Parameters
    ----------
    weights : dict of str to Tensor
        The weights as published.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.words = nn.Embedding(*weights["embeddings.word_embeddings.weight"].shape)
        self.places = nn.Embedding(512, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, activation="gelu", layer_norm_eps=1e-12, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.load_state_dict(_renamed(weights))
        self.eval()

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode sentences of one length, shape (sentences, tokens), int64."""
        places = self.places(torch.arange(tokens.shape[1]))
        states: Tensor = self.layers(self.norm(self.words(tokens) + places))
        return states.mean(1)


def load(folder: Path) -> MiniLM:
    """Build the network from the folder of its published files."""
    return MiniLM(load_file(folder / "model.safetensors"))


def sentences(folder: Path) -> Tensor:
    """Return the token numbers of a few sentences of whole words, shape (3, 9), int64."""
    words = (folder / "vocab.txt").read_text("utf-8").splitlines()
    number = {word: index for index, word in enumerate(words)}
    texts = (
        "the small dog sleeps under the table",
        "a large file takes time to load",
        "networks are many times smaller after packing",
    )
    return torch.tensor(
        [[number[word] for word in ("[CLS]", *text.split(), "[SEP]")] for text in texts]
    )


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the published weights the names of PyTorch's own encoder."""
    kinds = weights["embeddings.token_type_embeddings.weight"]
    # All tokens are of the first kind.
    state = {
        "words.weight": weights["embeddings.word_embeddings.weight"],
        "places.weight": weights["embeddings.position_embeddings.weight"] + kinds[0],
        "norm.weight": weights["embeddings.LayerNorm.weight"],
        "norm.bias": weights["embeddings.LayerNorm.bias"],
    }
    for index in range(LAYERS):
        old, new = f"encoder.layer.{index}", f"layers.layers.{index}"
        for kind in ("weight", "bias"):
            state |= {
                f"{new}.{part}.{kind}": weights[f"{old}.{published}.{kind}"]
                for part, published in _PARTS.items()
            }
            state[f"{new}.self_attn.in_proj_{kind}"] = torch.cat(
                [
                    weights[f"{old}.attention.self.{part}.{kind}"]
                    for part in ("query", "key", "value")
                ]
            )
    return state
