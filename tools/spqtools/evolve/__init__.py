"""Directed Evolution: which weights a network does not need, judged by its own output.

The source (arXiv 2206.05859) zeroes sets of weights tentatively and keeps the zeros that change the
student's output least against the teacher's. Here a cycle walks once through the network; at each
layer a population of zero-sets, seeded by several criteria, is assessed on the student itself, each
with survivors that make up for it by least squares, and the walk goes on with the winner.

`student`       the network as a graph that can be run from any layer on
`folding`       batch norms become part of the layers before them
`sparse`        a student: its tensors and what it keeps
`divergence`    how far the student's output is from the teacher's
`sensing`       what the network's output says about its layers, from gradients
`sums`          what gradients add up to, batch by batch
`moments`       second moments of a layer's inputs, and what they say about its weights
`compensation`  least-squares weights on a given support, by `row_solver` where few are kept
`population`    zero-sets and the operators on them
`evidence`      whether one student is better than another, or only seems so
`rate`          what zeros and survivors take in the file
`allocation`    how many zeros each layer gets
`effort`        how much a cycle may try
`workload`      how a cycle's work is spread over its layers
`search`        cycles: from one student to a sparser one
`rng`           random words that every machine draws alike
"""
