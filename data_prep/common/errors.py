"""The errors that a command reports in one line."""

import errno

# Reasons for which a write fails and whose OSError names no file.
WRITE_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class UserError(Exception):
    """Something that the user can correct. The message is one sentence: what, where, how."""
