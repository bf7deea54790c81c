"""Encoders that learn a person's images without labels, and what their features are worth."""

from paperweight.embedding.encoder import Encoder, load_encoder
from paperweight.embedding.outcome import Embedded
from paperweight.embedding.run import embed

__all__ = ["Embedded", "Encoder", "embed", "load_encoder"]
