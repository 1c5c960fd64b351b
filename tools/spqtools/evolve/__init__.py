"""Directed Evolution: which weights a network does not need, judged by its own output.

The source (arXiv 2206.05859) zeroes sets of weights tentatively and keeps the zeros that change the
student's output least against the teacher's. Here a cycle walks once through the network; at each
layer a population of zero-sets, seeded by several criteria, is assessed on the student itself, and
the survivors are compensated in closed form before the walk goes on.

`student`       the network as a graph that can be run from any layer on
`divergence`    how far the student's output is from the teacher's
`moments`       second moments of a layer's inputs, and what they say about its weights
`compensation`  least-squares weights on a given support
`population`    zero-sets and the operators on them
`allocation`    how many zeros each layer gets
`search`        cycles, goals and checkpoints
`rng`           random words that every machine draws alike
"""
