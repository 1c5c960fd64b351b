"""`spq bench`: how a file loads and runs beside the same weights in other files.

`processes`  starts a process for each measurement, in turns, and makes a table of them
`child`      what such a process does
"""
