"""What the machine refuses - room on a disk, memory, the right to write - in words.

Libraries say it in their own ways: numpy by an OSError without a number, safetensors by an error of
its own, torch by a RuntimeError. What is told apart here is told as one line, never as a fault of
the config that was running.
"""

from __future__ import annotations

import errno
import re

# What a package index calls this package; `decode` is another project there.
DISTRIBUTION = "decode-brain"

FULL = (
    "the disk is full ({}); free space or set paths.outputs to another disk, then run the same "
    "command again"
)
OTHER_DISK = "set paths.outputs to a folder that can be written"
WORDS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: "the quota of this account is used up ({}); free space or set paths.outputs to "
    "another disk, then run the same command again",
    errno.EFBIG: "a file would be larger than is allowed here ({}); raise the limit (ulimit -f) or "
    "set paths.outputs to another disk, then run the same command again",
    errno.EROFS: "the file system can only be read ({}); " + OTHER_DISK,
    errno.EACCES: "no permission for {}; ask its owner for the rights (chmod), or " + OTHER_DISK,
    errno.EPERM: "no permission for {}; ask its owner for the rights (chmod), or " + OTHER_DISK,
    errno.EIO: "the disk gave an error ({}); look at the disk or the network drive, then run the "
    "same command again",
    errno.ESTALE: "the network drive has lost a file ({}); run the same command again",
    errno.EMFILE: "too many files are open ({}); raise the limit (ulimit -n)",
    errno.ENOTDIR: "expected a folder, got a file ({}); correct the path",
    errno.EISDIR: "expected a file, got a folder ({}); correct the path",
    errno.ENAMETOOLONG: "a name is too long for this file system ({}); shorten it",
}
OUT_OF_MEMORY = (
    "out of memory ({}); lower trainer.batch_size or choose fewer subjects or voxels, or run it where "
    "there is more memory"
)
# What numpy says when a disk takes only the beginning of an array: an OSError without a number, which
# may be a full disk, a quota or a limit.
TAKES_NO_MORE = (
    "the disk takes no more ({}): it is full, or a quota or a limit on the size of files is reached; "
    "free space or set paths.outputs to another disk, then run the same command again"
)
CUT_SHORT = re.compile(r"\d+ requested and \d+ written")
NUMBER = re.compile(r"(?:os error |errno =? ?)(\d+)", re.IGNORECASE)
NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|unable to allocate|std::bad_alloc",
    re.IGNORECASE,
)


def in_words(error: BaseException, place: object = None) -> str | None:
    """One line for an error that is the machine's, None for any other; `place` names the file where
    the error does not.
    """
    said = " ".join(str(error).split())
    if is_memory(error):
        return OUT_OF_MEMORY.format(said.split(". ")[0][:160] or type(error).__name__)
    name = getattr(error, "filename", None) or place
    where = name if name is not None else said[:160] or "while writing"
    if isinstance(error, OSError) and error.errno is None and CUT_SHORT.search(said):
        return TAKES_NO_MORE.format(where)
    number = _number(error, said)
    return WORDS[number].format(where) if number in WORDS else None


def is_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the processor or on a GPU."""
    if isinstance(error, MemoryError):
        return True
    torch_says = isinstance(error, RuntimeError) and type(error).__module__.startswith(
        ("torch", "builtins")
    )
    return torch_says and NO_MEMORY.search(str(error)) is not None


def _number(error: BaseException, said: str) -> int | None:
    """The number of the operating system's error, also where it is only in the text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    library = type(error).__module__.split(".")[0] in ("safetensors", "pyarrow", "h5py")
    found = NUMBER.search(said) if library or isinstance(error, OSError) else None
    return int(found[1]) if found else None
