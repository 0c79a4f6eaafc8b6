"""What went wrong -> one sentence and an exit status."""

from __future__ import annotations

import errno

from framework.errors import UserError, first_line

FAULT = 1
BAD_INPUT = 2

#: Answers of the operating system that the user can do something about.
_SYSTEM = {
    errno.ENOSPC: "the disk is full; what was finished is kept. Free some space and run it again.",
    errno.EDQUOT: "the disk quota is used up; what was finished is kept.",
    errno.EROFS: "the output lies on a read-only disk; choose another --output.",
    errno.EACCES: "no permission to read or write a file; check it, or choose another --output.",
    errno.EPERM: "no permission to read or write a file; check it, or choose another --output.",
    errno.ENAMETOOLONG: "a path is too long; choose a shorter one.",
    errno.ELOOP: "a path goes round in a circle of links; give the file itself.",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another path.",
    errno.EISDIR: "a folder stands where a file is needed; choose another path.",
    errno.ENOENT: "a file or folder that is needed is not there.",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n) and run it again.",
    errno.ENOMEM: "the machine's memory is used up; draw fewer or smaller pictures at once.",
}
_MEMORY = (
    "the memory is used up. Draw smaller pictures (sampler.height, sampler.width), or fewer at "
    "once (sampler.batch_size=1)."
)


def worded(error: Exception) -> tuple[str, int]:
    """Say in a sentence what an exception means.

    Args:
        error: anything a command raised.

    Returns:
        The message, and the exit status: 2 where the user can mend it, else 1.
    """
    if isinstance(error, UserError):
        return str(error), BAD_INPUT
    if isinstance(error, OSError) and error.errno in _SYSTEM:
        where = f" ('{error.filename}')" if error.filename else ""
        return f"{_SYSTEM[error.errno]}{where}", BAD_INPUT
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return _MEMORY, BAD_INPUT
    kind, text = type(error).__name__, first_line(error)
    about = kind if text == kind else f"{kind}: {text}"
    return (
        f"something unexpected went wrong ({about}). Run the same command with --debug to see "
        "where; what was finished is kept.",
        FAULT,
    )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether torch says so: it has a class for CUDA and none for the CPU."""
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )
