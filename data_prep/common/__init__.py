"""Code shared by all packages: errors, commands, files, text formats, progress bars.

Importing these modules has no side effects.
"""
