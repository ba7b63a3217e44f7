"""The errors that a command reports in one line."""

import errno

# Reasons for failed writes whose OSError names no file.
WRITE_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class UserError(Exception):
    """An error that the user can correct. The message is one sentence: what, where, how to fix."""
