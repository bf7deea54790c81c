"""Published deep-learning methods, one file each, and the bench that weighs them."""

TYPE_CHECKING = False  # typing is not loaded yet where a command starts: see paperweight.cli.starting
if TYPE_CHECKING:
    from paperweight.bench import Weighing, weigh

__all__ = ["Weighing", "__version__", "weigh"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name in ("Weighing", "weigh"):
        from paperweight import bench

        return getattr(bench, name)
    raise AttributeError(f"module 'paperweight' has no attribute {name!r}")
