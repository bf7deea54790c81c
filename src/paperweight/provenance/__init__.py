"""What a result depends on: the definitions that its trials executed, their hashes, and renewal by replay.

A *unit* is a definition: a function, a method, a class without its methods, a module-level statement. A result holds
the hashes of the units that its trials executed, and is stale once one of them has changed.
"""

from paperweight.provenance.comparison import Replay, differences, replay
from paperweight.provenance.own import note_own_files, own_files, unchanged_files
from paperweight.provenance.recording import Recording, recording, running
from paperweight.provenance.revisions import checked_out, is_known, revision, revisions_of
from paperweight.provenance.units import SourceTree, changed, file_digest, here

__all__ = [
    "Recording",
    "Replay",
    "SourceTree",
    "changed",
    "checked_out",
    "differences",
    "file_digest",
    "here",
    "is_known",
    "note_own_files",
    "own_files",
    "recording",
    "replay",
    "revision",
    "revisions_of",
    "running",
    "unchanged_files",
]
