"""Training of a small network on the answers of the original.

`recover`   the plans, down to a size or where zeros stay: steps, rates, which student is kept
`pupil`     the network that learns: masks, levels, gradients
`variants`  other images from a few
"""
