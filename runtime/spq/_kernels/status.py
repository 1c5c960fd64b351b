"""What a kernel returns in place of an exception."""

OK = 0
STREAM_TOO_SHORT = 1
STREAM_TOO_LONG = 2
BAD_STATE = 3
BAD_PADDING = 4
