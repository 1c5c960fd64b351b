"""Training of a small network on the answers of the original.

`recover`  the plan: steps, rates, when weights cease to move, which epoch is kept
`pupil`    the network that learns: masks, levels, gradients
"""
