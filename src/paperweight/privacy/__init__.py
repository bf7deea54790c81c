"""Protection of data and of models: unlearnable data, private training, membership."""

from paperweight.catalogue import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
