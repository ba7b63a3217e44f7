"""What every package here shares: errors, commands, files, reading of text formats, progress.

Importing it, or any module in it, changes nothing in the process.
"""
