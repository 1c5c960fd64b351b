"""Training of a small network on the answers of the original.

`recover`   training down to the size of a file and onto levels
`refine`    training where zeros stay as they are
`course`    how long a training is, and its samples
`budget`    the bits that a student may take
`pupil`     the network that learns: masks, levels, gradients
`variants`  other images from a few
"""
