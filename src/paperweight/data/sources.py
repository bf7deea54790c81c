"""The layouts of a set of images, told apart by what lies in a folder or how a file is called.

A source is looked at first (`open_source`), so that its cache entry can be found, and read only if need be.
"""

from pathlib import Path

from paperweight.data.archives import left_out, read_npz
from paperweight.data.binaries import binary_folder
from paperweight.data.decoding import EXTENSIONS
from paperweight.data.folders import image_folder
from paperweight.data.parquet import parquet_file, parquet_folder
from paperweight.data.parts import Source
from paperweight.data.walking import files_below
from paperweight.errors import InputError

__all__ = ["open_source"]

FOREIGN = {
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".pt": "PyTorch",
    ".pth": "PyTorch",
    ".npy": "single-array NumPy",
    ".mat": "MATLAB",
    ".zip": "zip",
    ".tar": "tar",
    ".gz": "gzip",
    ".csv": "CSV",
}


def open_source(path: Path, *, labelled: bool = True) -> Source:
    """Recognise the layout of a file or folder of images, without decoding any.

    Args:
        path: The file or folder.
        labelled: Whether images without classes are refused; else they are of one class.

    Raises:
        InputError: If it has no layout that is known.
    """
    if path.is_dir():
        return _folder(path, labelled)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet_file(path, labelled=labelled)
    if suffix == ".npz":
        return Source({path.name: path}, left_out(path, labelled=labelled), lambda: read_npz(path, labelled=labelled))
    remedy = "give a folder of class folders, a Parquet file, or an .npz file with x and y"
    if suffix in EXTENSIONS:
        raise InputError(f"{path} is a single image; {remedy}")
    if "idx" in path.name or suffix == ".bin":
        remedy = f"give the folder that holds images and labels, {path.parent}"
    raise InputError(f"{path} is of a format that is not read ({FOREIGN.get(suffix, suffix or 'no suffix')}); {remedy}")


def _folder(path: Path, labelled: bool) -> Source:
    files = list(files_below(path))
    if not any(file.suffix.lower() in EXTENSIONS for file in files):
        binary = binary_folder(path, files)
        if binary is not None:
            return binary
    parquet = [file for file in files if file.suffix.lower() == ".parquet"]
    homes = {file.parent for file in files if file.suffix.lower() in EXTENSIONS}
    if any(file.parent == path for file in parquet) or (parquet and len(homes) < 2):
        return parquet_folder(path, parquet, labelled=labelled)
    archives = [file for file in files if file.suffix.lower() == ".npz"]
    if len(archives) == 1 and len(files) == 1:
        return open_source(archives[0], labelled=labelled)
    return image_folder(path, files, labelled=labelled)
