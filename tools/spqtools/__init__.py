"""The compressor and the `spq` command.

`cli`           the command line, and in `parameters` what its words mean
`pack`          the way from a trained network to a packed file, and in `content` what that holds
`reading`       what comes in
`search`        how sparse, and at which price of a bit, until the goal is hit
`evolve`        which weights are zeroed
`levels`        few values for the others
`training`      learning from the original's answers afterwards
`onnx_teacher`  an ONNX graph as the search runs it
`judge`         loads a packed file as its users will, and measures it
`report`        what came of it, and in `inspection` what a file holds
`comparison`    `spq compare`
`benchmark`     `spq bench`
`unpack`        ordinary files again, and in `expansion` compact ONNX models
`demo`          `spq demo`
"""
